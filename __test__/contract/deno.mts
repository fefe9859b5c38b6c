// The contract suite's rows for Deno KV.
import { DenoKvStore } from "../../index.js";
import { DenokvServer, hasDenokv } from "../services/denokv.mts";
import { openDenoStore } from "../support/deno.mts";
import { temporaryFile } from "../support/sqlite.mts";
import { PATIENCE, type Row, type Store } from "./fixture.mts";

const limits = {
  "long keys": "Deno KV limits keys to 2,048 bytes",
  "large values": "Deno KV limits values to 65,536 bytes",
} as const;

/** A server has only one database, so it is emptied after each test. */
function server(): Row {
  let denokv: DenokvServer;
  return {
    name: "deno kv, a server",
    setUp: async () => {
      denokv = await DenokvServer.start();
    },
    tearDown: () => denokv.stop(),
    open: async () => {
      const handles: Store[] = [];
      const openAnother = () => {
        const { url, token } = denokv;
        const handle = new DenoKvStore(url, {
          accessToken: token,
          commandTimeout: PATIENCE,
        });
        handles.push(handle);
        return handle;
      };
      return {
        store: openAnother(),
        openAnother,
        remove: async () => {
          await Promise.all(handles.map((handle) => handle.close()));
          await using cleaner = openAnother();
          await cleaner.drop();
        },
      };
    },
    except: {
      ...limits,
      "exact expiry":
        "the protocol doesn't transmit expiry times; the server removes expired entries about a minute later",
    },
  };
}

export const denoRows: readonly Row[] = [
  {
    name: "deno kv, a file",
    open: async () => {
      const path = await temporaryFile();
      const openAnother = () => openDenoStore(path, { busyTimeout: 60_000 });
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
      "second handle": "each :memory: database has its own data",
    },
  },
  ...(hasDenokv ? [server()] : []),
];
