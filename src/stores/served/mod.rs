//! What the stores on servers have in common: a bound on what waits, lists
//! that see the writes before them, and TLS.

mod generations;
mod load;
mod tls;

pub use generations::Generations;
pub use load::Load;
pub use tls::{TlsOptions, system_certificates};
