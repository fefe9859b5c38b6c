// How the demo looks on a terminal. styleText drops the colours where they are
// unwelcome: in a pipe, or under NO_COLOR.
import { styleText } from "node:util";

export function section(title: string, remark = ""): void {
  const words = [styleText("bold", title), styleText("dim", remark)];
  console.log(`\n${remark === "" ? words[0] : words.join("  ")}`);
}

export function row(...cells: readonly unknown[]): void {
  const line = cells.map((cell) => `${cell ?? ""}`.padEnd(14)).join("  ");
  console.log(`  ${line.trimEnd()}`);
}
