// Generates the vocabulary classes of a checkout, as its build does. Git ignores
// the file there.
import { join } from "node:path";

const name = "@fedify/vocab-tools";
const { generateVocab } = await import(name);
const folder = join(process.env.FEDIFY_CHECKOUT ?? "", "packages/vocab/src");
await generateVocab(folder, join(folder, "vocab.ts"));
