// Numbered entries.

export const numbers = (count: number) => Array.from(Array(count).keys());

export const key = (i: number) => ["k", String(i)] as const;
