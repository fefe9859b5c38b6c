//! `MysqlKvStore`.

use super::list::KvListIterator;
use super::methods::store_methods;
use super::{Ready, called_with_new, js, ready, thrown};
use crate::binding::args::{Arg, ClearPrefix, Json, SetOptions, UrlText};
use crate::binding::handle::Handle;
use crate::binding::list::Request;
use crate::kv::{Command, Key};
use crate::stores::{MysqlOptions, MysqlStore};
use napi::bindgen_prelude::{Env, This};
use napi_derive::napi;

/// Keeps entries in a table of MySQL (8.0 or later) or MariaDB (10.7 or later).
/// Other processes may use it at the same time, also with `@fedify/mysql`: the
/// format is the same.
///
/// Waiting operations share statements: up to 512 reads or writes take one round
/// trip. After a connection is lost, what was not carried out is repeated; a write
/// whose outcome is unknown rejects and says so.
///
/// A key may have 768 characters as JSON text (`ERR_KV_KEY_TOO_LONG`). A value
/// may be as large as the server's `max_allowed_packet`
/// (`ERR_KV_VALUE_TOO_LARGE`). It must be JSON that the server accepts
/// (`ERR_KV_INVALID_VALUE`): without lone surrogates, and with up to 100 levels
/// in MySQL, 31 in MariaDB 10.
///
/// @example
/// ```ts
/// import { createFederation } from "@fedify/fedify";
/// import { MysqlKvStore } from "fedify-kv";
///
/// const kv = new MysqlKvStore("mysql://user:password@localhost/fedify");
/// await kv.initialize();
/// const federation = createFederation<void>({ kv });
/// ```
#[napi]
pub struct MysqlKvStore(pub(in crate::binding) Handle);

#[napi]
impl MysqlKvStore {
    /// @param url The database's URL, such as
    ///            `mysql://user:password@host:3306/database` (or `mariadb:`).
    ///            `?ssl-mode=VERIFY_IDENTITY` encrypts and verifies the server,
    ///            `?ssl-mode=REQUIRED` encrypts but does not verify it;
    ///            `?socket=/run/mysqld/mysqld.sock` connects to a Unix socket.
    ///            Nothing is connected before the first operation.
    /// @param options The options.
    /// @throws `ERR_KV_INVALID_OPTION`
    #[napi(constructor, ts_args_type = "url: string, options?: MysqlKvStoreOptions")]
    pub fn new(env: Env, this: This<'_>, url: Arg<UrlText>, options: Arg<MysqlOptions>) -> napi::Result<Self> {
        called_with_new(env, &this, "MysqlKvStore")?;
        let store = || MysqlStore::at(&url.0?.0, &options.0?, js(env).host());
        match store() {
            Ok(store) => Ok(Self(Handle::new(js(env), store))),
            Err(error) => Err(thrown(env, &error)),
        }
    }
}

store_methods!(MysqlKvStore);
