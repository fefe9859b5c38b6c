// Collects the entries of a list.

export interface Entry {
  readonly key: readonly string[];
  readonly value: unknown;
}

export async function collect(list: AsyncIterable<Entry>): Promise<Entry[]> {
  const entries: Entry[] = [];
  for await (const entry of list) {
    entries.push(entry);
  }
  return entries;
}

export async function keysOf(
  list: AsyncIterable<Entry>,
): Promise<(readonly string[])[]> {
  return (await collect(list)).map((entry) => entry.key);
}

/**
 * Sorts items by their JSON text. Stores list in different orders, so tests
 * sort both sides before they compare them.
 */
export function inTextOrder<T>(items: Iterable<T>): T[] {
  return [...items]
    .map((item) => ({ item, text: JSON.stringify(item) }))
    .sort((a, b) => (a.text < b.text ? -1 : Number(a.text > b.text)))
    .map(({ item }) => item);
}
