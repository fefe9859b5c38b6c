//! What the stores on servers share: connecting, a bound on the queue, lists
//! that see the writes before them, and TLS.

mod connect;
mod generations;
mod load;
mod tls;

pub use connect::{connect, contain, look_up};
pub use generations::Generations;
pub use load::{Admission, Load};
pub use tls::{TlsOptions, system_certificates};
