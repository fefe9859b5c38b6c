//! `MemoryKvStore` has no options.

use super::Given;
use crate::binding::args::Parse;
use crate::binding::js::{Js, Value};
use crate::kv::Result;

pub struct NoOptions;

impl Parse for NoOptions {
    fn parse(js: Js, value: Value) -> Result<Self> {
        Given::read(js, value, "MemoryKvStore", |_| Ok(Self))
    }
}
