//! Compiles the `.proto` files with `protox`, so that no `protoc` has to be installed.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=starling");
    let files = ["access", "fleet", "operator", "peers"].map(|name| format!("starling/v1/{name}.proto"));
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?).join("starling.bin");
    fs::write(out, prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure().bytes(".starling.v1.Chunk.data").compile_fds(descriptors)?;
    Ok(())
}
