//! Lets napi set up the linker, and keeps the addon mapped once it is loaded.

fn main() {
    napi_build::setup();

    // When the last worker thread that uses the addon ends, Node unmaps it. Our
    // own threads may still be closing a database then, and would run into
    // unmapped code.
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
