// Rows of dots on a logarithmic axis: one row for what is measured, one dot for
// each side, and at the end how many times as long the official package takes.
import { formatRatio, type Unit, unitLabel } from "../units.mts";
import { render } from "./render.mts";
import { type Mode, type Theme, THEMES, titleOf } from "./theme.mts";

export interface Series {
  readonly name: string;
  readonly color: keyof Theme;
}

export interface DotRow {
  readonly label: string;
  /** By series. A series without a value has no dot. */
  readonly values: Readonly<Record<string, number | undefined>>;
}

export interface DotGroup {
  readonly name: string;
  readonly rows: readonly DotRow[];
}

export interface Dots {
  readonly title: string;
  readonly subtitle: string;
  readonly unit: Unit;
  /** What ours is, beside the official package. */
  readonly words: readonly [better: string, worse: string];
  /** Ours first, then the one that the ratio compares it with. */
  readonly series: readonly Series[];
  readonly groups: readonly DotGroup[];
}

const ROW = 24;
const TOP = 108;
const BOTTOM = 36;

type Line = DotRow & { readonly heading: boolean };

export function dots(chart: Dots, mode: Mode): string {
  const theme = THEMES[mode];
  const { series, unit } = chart;
  const lines = chart.groups.flatMap(({ name, rows }): Line[] => [
    { label: name, values: {}, heading: true },
    ...rows.map((row) => ({ ...row, heading: false })),
  ]);
  const indexes = lines.map((_, i) => String(i));
  const height = TOP + lines.length * ROW + BOTTOM;
  const rows = {
    type: "category",
    inverse: true,
    data: indexes,
    axisLine: { show: false },
    axisTick: { show: false },
  };
  const option = {
    title: titleOf(chart, theme),
    legend: {
      top: 58,
      left: 4,
      itemGap: 18,
      textStyle: { color: theme.text },
      data: series.map(({ name }) => name),
    },
    grid: { left: 208, right: 124, top: TOP, bottom: BOTTOM },
    xAxis: {
      type: "log",
      axisLabel: {
        color: theme.muted,
        formatter: (value: number) => unitLabel(value, unit),
      },
      axisLine: { show: false },
      splitLine: { lineStyle: { color: theme.grid } },
      ...range(lines),
    },
    yAxis: [
      {
        ...rows,
        axisLabel: {
          formatter: (i: string) => {
            const { label, heading } = lines[Number(i)]!;
            return heading ? `{heading|${label}}` : label;
          },
          color: theme.text,
          rich: { heading: { color: theme.text, fontWeight: "bold" } },
        },
      },
      {
        ...rows,
        position: "right",
        axisLabel: {
          formatter: (i: string) => verdict(lines[Number(i)]!, chart),
          color: theme.text,
          rich: { slower: { color: theme.slower } },
        },
      },
    ],
    series: [
      connections(lines, theme),
      ...series.map(({ name, color }, i) => ({
        name,
        type: "scatter",
        // Ours stays visible where dots overlap.
        z: 2 + series.length - i,
        symbolSize: 11,
        silent: true,
        itemStyle: { color: theme[color] },
        data: lines.flatMap(({ values }, i) =>
          values[name] === undefined ? [] : [[values[name], i]],
        ),
      })),
    ],
  };
  return render(option, height);
}

/** Powers of ten around all values. */
function range(lines: readonly Line[]): { min: number; max: number } {
  const values = lines.flatMap((line) => present(line));
  return {
    min: 10 ** Math.floor(Math.log10(Math.min(...values))),
    max: 10 ** Math.ceil(Math.log10(Math.max(...values))),
  };
}

function present({ values }: Line): number[] {
  return Object.values(values).filter((value) => value !== undefined);
}

/** How ours compares with the official package. */
function verdict({ values }: Line, { series, words }: Dots): string {
  const [ours, peer] = series;
  const [a, b] = [values[ours!.name], values[peer!.name]];
  if (a === undefined || b === undefined) return "";
  const ratio = b / a;
  if (ratio >= 1) return `${formatRatio(ratio)} ${words[0]}`;
  return `{slower|${formatRatio(1 / ratio)} ${words[1]}}`;
}

/** A line between the dots of a row, which leads the eye. */
function connections(lines: readonly Line[], theme: Theme) {
  return {
    type: "custom",
    silent: true,
    z: 1,
    data: lines.flatMap((line, i) => {
      const values = present(line);
      if (values.length === 0) return [];
      return [[Math.min(...values), i, Math.max(...values)]];
    }),
    renderItem(
      _: unknown,
      api: {
        value(dimension: number): number;
        coord(point: readonly number[]): readonly [number, number];
      },
    ) {
      const [x1, y1] = api.coord([api.value(0), api.value(1)]);
      const [x2, y2] = api.coord([api.value(2), api.value(1)]);
      return {
        type: "line",
        shape: { x1, y1, x2, y2 },
        style: { stroke: theme.grid, lineWidth: 3 },
      };
    },
  };
}
