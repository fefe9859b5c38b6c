//! Native key–value stores for Fedify: `binding` exports the `stores` to
//! JavaScript, in terms of what `kv` defines.

mod binding;
mod host;
mod kv;
mod stores;
