// A class in place of Fedify's MemoryKvStore: one of our stores, empty, that no
// other test uses.
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import {
  DenoKvStore,
  MemoryKvStore,
  MysqlKvStore,
  PostgresKvStore,
  RedisKvStore,
  SqliteKvStore,
} from "../../../index.js";

const place = process.env.FEDIFY_STORE_PLACE ?? "";
const file = () => join(place, randomUUID());
const name = () => `kv_${randomUUID().replaceAll("-", "_")}`;

const stores = {
  memory: MemoryKvStore,
  sqlite: class extends SqliteKvStore {
    constructor() {
      super(file());
    }
  },
  redis: class extends RedisKvStore {
    constructor() {
      super(place, { keyPrefix: `${name()}::` });
    }
  },
  "redis-index": class extends RedisKvStore {
    constructor() {
      super(place, { keyPrefix: `${name()}::`, index: true });
    }
  },
  postgres: class extends PostgresKvStore {
    constructor() {
      super(place, { tableName: name() });
    }
  },
  mysql: class extends MysqlKvStore {
    constructor() {
      super(place, { tableName: name() });
    }
  },
  deno: class extends DenoKvStore {
    constructor() {
      super(file());
    }
  },
};

export type StoreName = keyof typeof stores;

export const Store = stores[process.env.FEDIFY_STORE as StoreName];
