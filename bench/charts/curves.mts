// Lines on two logarithmic axes: how a time grows with the number of entries.
import { unitLabel } from "../units.mts";
import { render } from "./render.mts";
import { type Mode, type Theme, THEMES, titleOf } from "./theme.mts";

export interface Curve {
  readonly name: string;
  readonly color: keyof Theme;
  readonly dashed: boolean;
  readonly points: readonly (readonly [entries: number, seconds: number])[];
}

export interface Curves {
  readonly title: string;
  readonly subtitle: string;
  readonly curves: readonly Curve[];
}

const HEIGHT = 440;

export function curves(chart: Curves, mode: Mode): string {
  const theme = THEMES[mode];
  const axis = {
    type: "log",
    axisLine: { lineStyle: { color: theme.grid } },
    splitLine: { lineStyle: { color: theme.grid } },
  };
  const option = {
    title: titleOf(chart, theme),
    grid: { left: 70, right: 208, top: 74, bottom: 40 },
    xAxis: {
      ...axis,
      axisLabel: {
        color: theme.muted,
        formatter: (value: number) => `${value.toLocaleString("en")} entries`,
      },
      min: 1000,
      max: Math.max(...chart.curves.flatMap(({ points }) => points.map(first))),
    },
    yAxis: {
      ...axis,
      axisLabel: {
        color: theme.muted,
        formatter: (value: number) => unitLabel(value, "s"),
      },
    },
    series: chart.curves.map(({ name, color, dashed, points }) => ({
      name,
      type: "line",
      silent: true,
      symbol: "circle",
      symbolSize: 7,
      color: theme[color],
      lineStyle: { width: 2, type: dashed ? "dashed" : "solid" },
      endLabel: {
        show: true,
        formatter: name,
        color: theme.text,
        distance: 10,
      },
      labelLayout: { moveOverlap: "shiftY" },
      data: points,
    })),
  };
  return render(option, HEIGHT);
}

function first([entries]: readonly [number, number]): number {
  return entries;
}
