// The Markdown files of the repository: their code blocks, headings and links.
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

export const root = join(import.meta.dirname, "../..");

export interface Block {
  /** For messages: the file and the line of the block. */
  readonly place: string;
  readonly file: string;
  readonly language: string;
  readonly code: string;
  /** The heading above the block. */
  readonly section: string;
  /** The HTML comment right above the block. */
  readonly comment: string;
}

export interface Page {
  /** The path from the root of the repository. */
  readonly file: string;
  readonly text: string;
  readonly blocks: readonly Block[];
  /** The ids that GitHub gives the headings. */
  readonly anchors: ReadonlySet<string>;
  /** The targets of all links and images. */
  readonly links: readonly string[];
}

function read(file: string): Page {
  const text = readFileSync(join(root, file), "utf8");
  const blocks: Block[] = [];
  const headings: string[] = [];
  let prose = "";
  let comment = "";
  const lines = text.split("\n");
  for (let i = 0; i < lines.length; i += 1) {
    const line = lines[i] ?? "";
    const fence = /^(\s*)```(\w*)/.exec(line);
    if (fence === null) {
      const heading = /^#+ (.*)/.exec(line)?.[1];
      if (heading !== undefined) headings.push(heading);
      if (line !== "") comment = /^<!-- (.*) -->$/.exec(line)?.[1] ?? "";
      prose += `${line}\n`;
      continue;
    }
    const place = `${file}:${i + 1}`;
    const [, indent = "", language = ""] = fence;
    const end = lines.indexOf(`${indent}\`\`\``, i + 1);
    if (end < 0) throw new Error(`${place} has no end`);
    const code = lines
      .slice(i + 1, end)
      .map((line) => line.slice(indent.length));
    const section = headings.at(-1) ?? "";
    blocks.push({
      place,
      file,
      language,
      code: `${code.join("\n")}\n`,
      section,
      comment,
    });
    comment = "";
    i = end;
  }
  // Code in a line of text is not a link.
  const words = prose.replaceAll(/`[^`]*`/g, "");
  const links = [
    ...words.matchAll(/\]\(([^)\s]+)\)/g),
    ...words.matchAll(/^\[[^\]]+\]: (\S+)/gm),
    ...words.matchAll(/(?:src|srcset|href)="([^"]+)"/g),
  ];
  return {
    file,
    text,
    blocks,
    anchors: anchorsOf(headings),
    links: links.map(([, target = ""]) => target),
  };
}

function anchorsOf(headings: readonly string[]): Set<string> {
  const anchors = new Set<string>();
  for (const heading of headings) {
    const id = heading
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N}\s_-]/gu, "")
      .replaceAll(" ", "-");
    let anchor = id;
    for (let n = 1; anchors.has(anchor); n += 1) anchor = `${id}-${n}`;
    anchors.add(anchor);
  }
  return anchors;
}

const files = [
  "README.md",
  "CONTRIBUTING.md",
  "CHANGELOG.md",
  ...readdirSync(join(root, "docs"))
    .filter((name) => name.endsWith(".md"))
    .map((name) => `docs/${name}`),
];

export const pages: readonly Page[] = files.map(read);

export function page(file: string): Page {
  const found = pages.find((page) => page.file === file);
  if (found === undefined) throw new Error(`there is no ${file}`);
  return found;
}

/** All blocks in one of these languages. */
export function blocksIn(...languages: readonly string[]): Block[] {
  return pages
    .flatMap(({ blocks }) => blocks)
    .filter(({ language }) => languages.includes(language));
}

/** Why a block can't be run, as the comment above it says. */
export function notRun({ comment }: Block): string | undefined {
  return /^not run: (.{10,})/.exec(comment)?.[1];
}

/** Why the types of a block can't be checked, as the comment above it says. */
export function notTyped({ comment }: Block): string | undefined {
  return /^types not checked: (.{10,})/.exec(comment)?.[1];
}
