// A child process that loads a package, opens a store and gets one value, and
// reports how long each took. Without a store it does nothing.
import { key } from "../data.mts";
import { loader } from "./stores.mts";

const [name, location = ""] = process.argv.slice(2);
if (name !== undefined) {
  const start = performance.now();
  const open = await loader(name)();
  const loaded = performance.now();
  const store = await open(location);
  const value = await store.get(key(0));
  const got = performance.now();
  if (value === undefined) throw new Error(`${name}: no value`);
  const [load, get] = [(loaded - start) / 1000, (got - loaded) / 1000];
  console.log(JSON.stringify({ load, get }));
} else {
  console.log("{}");
}
process.exit();
