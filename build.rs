//! Runs napi's linker setup, and keeps the addon mapped once it is loaded.

fn main() {
    napi_build::setup();

    // Node unmaps the addon when the last worker thread that uses it ends. One
    // of our own threads may still be closing a database then; it would crash
    // in unmapped code.
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
