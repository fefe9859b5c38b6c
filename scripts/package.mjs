// Packs the main package and a platform's package into the folder `packages`,
// as they are published. The platform is this machine's, or the one that is
// named like in the packages' names: `npm run package linux-x64-musl`. Its addon
// must have been built.
import { spawnSync } from "node:child_process";
import {
  copyFileSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dirname, "..");

function run(command, args, cwd = root) {
  const { error, status, stdout } = spawnSync(command, args, {
    cwd,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
    shell: process.platform === "win32",
  });
  if (error || status !== 0) {
    throw new Error(`${command} ${args.join(" ")} failed`, { cause: error });
  }
  return stdout;
}

const readJson = (file) => JSON.parse(readFileSync(file, "utf8"));

/** The platform whose addon was built, if there is only one. */
function builtPlatform() {
  const built = readdirSync(root)
    .map((name) => /^fedify-kv\.(.+)\.node$/.exec(name)?.[1])
    .filter((platform) => platform !== undefined);
  if (built.length !== 1) {
    throw new Error(`name one of the built platforms: ${built.join(", ")}`);
  }
  return built[0];
}

/** Makes the folder that is the platform's package. */
function platformPackage(platform) {
  // It writes a folder for each platform.
  run("npx", ["napi", "create-npm-dirs", "--npm-dir", "npm"]);
  const folder = join(root, "npm", platform);
  const binary = `fedify-kv.${platform}.node`;
  copyFileSync(join(root, binary), join(folder, binary));
  const texts = ["LICENSE", "THIRD-PARTY-NOTICES"];
  for (const text of texts) copyFileSync(join(root, text), join(folder, text));

  const main = readJson(join(root, "package.json"));
  const about = readJson(join(folder, "package.json"));
  const { homepage, bugs, repository, publishConfig } = main;
  Object.assign(about, { homepage, bugs, repository, publishConfig });
  about.files.push(...texts);
  // Yarn can't load a native addon from a zip file.
  about.preferUnplugged = true;
  // The loader compares this with the file's size.
  about.bytes = statSync(join(folder, binary)).size;
  writeFileSync(join(folder, "package.json"), JSON.stringify(about, null, 2));
  return folder;
}

const folder = platformPackage(process.argv[2] ?? builtPlatform());
const packages = join(root, "packages");
rmSync(packages, { recursive: true, force: true });
mkdirSync(packages);
for (const from of [root, folder]) {
  const words = ["pack", "--json", "--pack-destination", packages];
  const [{ filename, size, unpackedSize }] = JSON.parse(
    run("npm", words, from),
  );
  const megabytes = (bytes) => `${(bytes / 1e6).toFixed(2)} MB`;
  console.log(
    `packages/${filename}: ${megabytes(size)}, ${megabytes(unpackedSize)} unpacked`,
  );
}
