// Deno KV as rows of the contract.
import { DenoKvStore } from "../../index.js";
import { openDenoStore } from "../support/deno.mts";
import { temporaryFile } from "../support/sqlite.mts";
import type { Row } from "./fixture.mts";

const limits = {
  "long keys": "Deno KV takes keys of up to 2,048 bytes",
  "large values": "Deno KV takes values of up to 65,536 bytes",
} as const;

export const denoRows: readonly Row[] = [
  {
    name: "deno kv, a file",
    open: async () => {
      const path = await temporaryFile();
      const openAnother = () => openDenoStore(path);
      return { store: openAnother(), openAnother };
    },
    except: limits,
  },
  {
    name: "deno kv, :memory:",
    open: async () => {
      const store = new DenoKvStore(":memory:");
      return { store, remove: () => store.close() };
    },
    except: {
      ...limits,
      "second handle": "each :memory: database is its own data",
    },
  },
];
