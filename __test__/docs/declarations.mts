// What index.d.ts declares, for tests that the documents are complete.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "./markdown.mts";

const text = readFileSync(join(root, "index.d.ts"), "utf8");

export interface Option {
  readonly name: string;
  /** The default as code; undefined if it is described in words. */
  readonly default: string | undefined;
  /** The options within this one. */
  readonly within: readonly string[];
}

interface Interface {
  readonly base: string | undefined;
  readonly own: readonly Option[];
}

const interfaces = new Map<string, Interface>();
for (const { groups = {} } of text.matchAll(
  /^export interface (?<name>\w+Options)(?: extends (?<base>\w+))? \{\n(?<body>.*?)^\}/gms,
)) {
  const options = (groups.body ?? "").matchAll(
    /^ {2}\/\*\*(?<comment>.*?)\*\/\n {2}(?:readonly )?(?<name>\w+)\?: (?<type>\{.*?^ {2}\}|[^\n]*);$/gms,
  );
  interfaces.set(groups.name ?? "", {
    base: groups.base,
    own: [...options].map(({ groups = {} }) => ({
      name: groups.name ?? "",
      default: /@default ("[^"]*"|\d+|true|false|\[\])$/m.exec(
        groups.comment ?? "",
      )?.[1],
      within: [...(groups.type ?? "").matchAll(/^ {4}(\w+)\?:/gm)].map(
        ([, name = ""]) => name,
      ),
    })),
  });
}

const bases = new Set([...interfaces.values()].map(({ base }) => base));

/** The interfaces of options, except those that others extend. */
export const optionInterfaces: readonly string[] = [
  ...interfaces.keys(),
].filter((name) => !bases.has(name));

/** The options of an interface, and those of the one that it extends. */
export function optionsOf(name: string): Option[] {
  const declared = interfaces.get(name);
  if (declared === undefined) throw new Error(`there is no interface ${name}`);
  const inherited = declared.base === undefined ? [] : optionsOf(declared.base);
  return [...declared.own, ...inherited];
}

/** The codes of errors. */
export const errorCodes: readonly string[] = [
  ...text.matchAll(/^ {2}\| "(ERR_KV_\w+)"/gm),
].map(([, code = ""]) => code);
