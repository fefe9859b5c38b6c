// Figures with the unit that fits and three digits.

export type Unit = "s" | "bytes";

const units: Record<Unit, readonly (readonly [number, string])[]> = {
  s: [
    [1, "s"],
    [1e-3, "ms"],
    [1e-6, "µs"],
    [1e-9, "ns"],
  ],
  bytes: [
    [1e9, "GB"],
    [1e6, "MB"],
    [1e3, "kB"],
    [1, "B"],
  ],
};

export function format(value: number, unit: Unit): string {
  const sizes = units[unit];
  // What rounds to 1,000 of a unit is written as 1 of the next.
  const fits = sizes.find(([size]) => Math.abs(value) >= size * 0.9995);
  const [size, name] = fits ?? sizes.at(-1)!;
  return `${digits(value / size)} ${name}`;
}

/** How many times as long as ours a peer takes. */
export function formatRatio(ratio: number): string {
  return `${digits(ratio)}×`;
}

/** Three digits, without an exponent; two if the first ones are zeros. */
function digits(value: number): string {
  if (value > 0 && value < 0.095) {
    return value.toFixed(1 - Math.floor(Math.log10(value)));
  }
  const whole = Math.trunc(Math.abs(value)).toString().length;
  return value.toFixed(Math.max(0, 3 - whole));
}

/** A label of an axis, without digits that mean nothing. */
export function unitLabel(value: number, unit: Unit): string {
  const [number, name] = format(value, unit).split(" ");
  return `${Number(number)} ${name}`;
}
