// Colours for GitHub's light and dark pages. The background stays transparent.

export type Mode = "light" | "dark";

export interface Theme {
  readonly text: string;
  readonly muted: string;
  readonly grid: string;
  /** By series. */
  readonly ours: string;
  readonly oursToo: string;
  readonly official: string;
  readonly tuned: string;
  readonly keyv: string;
  readonly floor: string;
  readonly slower: string;
}

export const THEMES: Readonly<Record<Mode, Theme>> = {
  light: {
    text: "#1f2328",
    muted: "#59636e",
    grid: "#d1d9e0",
    ours: "#0969da",
    oursToo: "#54aeff",
    official: "#bc4c00",
    tuned: "#d4a72c",
    keyv: "#8250df",
    floor: "#59636e",
    slower: "#cf222e",
  },
  dark: {
    text: "#f0f6fc",
    muted: "#9198a1",
    grid: "#3d444d",
    ours: "#4493f8",
    oursToo: "#a5d6ff",
    official: "#f0883e",
    tuned: "#e3b341",
    keyv: "#bc8cff",
    floor: "#9198a1",
    slower: "#ff7b72",
  },
};

/** The title of a chart and the line below it. */
export function titleOf(
  { title, subtitle }: { readonly title: string; readonly subtitle: string },
  theme: Theme,
) {
  return {
    text: title,
    subtext: subtitle,
    left: 8,
    top: 6,
    textStyle: { color: theme.text, fontSize: 16 },
    subtextStyle: { color: theme.muted, fontSize: 12 },
  };
}
