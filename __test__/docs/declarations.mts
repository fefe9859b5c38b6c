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

/** The options that an interface declares. */
export function optionsOf(name: string): Option[] {
  const body = new RegExp(`^export interface ${name} {\\n(.*?)^}`, "ms").exec(
    text,
  )?.[1];
  if (body === undefined) throw new Error(`there is no interface ${name}`);
  const options = body.matchAll(
    /^ {2}\/\*\*(?<comment>.*?)\*\/\n {2}(?<name>\w+)\?: (?<type>\{.*?^ {2}\}|[^\n]*);$/gms,
  );
  return [...options].map(({ groups = {} }) => ({
    name: groups.name ?? "",
    default: /@default ("[^"]*"|\d+|true|false|\[\])$/m.exec(
      groups.comment ?? "",
    )?.[1],
    within: [...(groups.type ?? "").matchAll(/^ {4}(\w+)\?:/gm)].map(
      ([, name = ""]) => name,
    ),
  }));
}

/** The interfaces of options. */
export const optionInterfaces: readonly string[] = [
  ...text.matchAll(/^export interface (\w+Options) /gm),
].map(([, name = ""]) => name);

/** The codes of errors. */
export const errorCodes: readonly string[] = [
  ...text.matchAll(/^ {2}\| "(ERR_KV_\w+)"/gm),
].map(([, code = ""]) => code);
