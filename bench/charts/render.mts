// Apache ECharts draws the charts: it has axes, legends and labels for all that
// we show, writes SVG without a browser or a DOM, and is widely used.
import { CustomChart, LineChart, ScatterChart } from "echarts/charts";
import {
  GridComponent,
  LegendComponent,
  TitleComponent,
} from "echarts/components";
import { init, use } from "echarts/core";
import type { EChartsCoreOption } from "echarts/core";
import { SVGRenderer } from "echarts/renderers";

use([
  CustomChart,
  GridComponent,
  LegendComponent,
  LineChart,
  ScatterChart,
  SVGRenderer,
  TitleComponent,
]);

export const WIDTH = 860;

/** The same options always give the same text. */
export function render(option: EChartsCoreOption, height: number): string {
  const chart = init(null, null, {
    renderer: "svg",
    ssr: true,
    width: WIDTH,
    height,
  });
  chart.setOption({ animation: false, ...option });
  const svg = chart.renderToSVGString();
  chart.dispose();
  // ECharts counts its charts in the names of clip paths and classes.
  return `${svg.replaceAll(/zr\d+-/g, "zr-")}\n`;
}
