// Prints the demo's output. styleText omits the colours if the output is a pipe
// or if NO_COLOR is set.
import { styleText } from "node:util";

export function section(title: string, remark = ""): void {
  const words = [styleText("bold", title), styleText("dim", remark)];
  console.log(`\n${remark === "" ? words[0] : words.join("  ")}`);
}

export function row(...cells: readonly unknown[]): void {
  const line = cells.map((cell) => `${cell ?? ""}`.padEnd(14)).join("  ");
  console.log(`  ${line.trimEnd()}`);
}
