import type { Row, Table } from "./results.mts";
import { format, formatRatio } from "./units.mts";

/** The figures of a row, with the ratio of peers to our first column. */
export function cells(columns: Table["columns"], { figures, unit }: Row) {
  const names = Object.keys(columns);
  const base = figures[names[0]!]?.median;
  return names.map((name) => {
    const figure = figures[name];
    if (figure === undefined) return "";
    const text = format(figure.median, unit);
    if (columns[name] !== "peer" || !base) return text;
    return `${text} (${formatRatio(figure.median / base)})`;
  });
}
