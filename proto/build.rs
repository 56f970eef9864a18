//! Compiles every schema under `schema/` into Rust, one file per package. Pure Rust: needs no
//! `protoc`.

use std::error::Error;
use std::fs;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=schema");
    let schemas = protox::compile(schema_files()?, ["schema"])?;
    // A body of bytes stays a slice of the frame that it came in.
    prost_build::Config::new().bytes(["."]).compile_fds(schemas)?;
    Ok(())
}

/// The schemas in an order of their own, so that a build does not depend on the directory's.
fn schema_files() -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    for entry in fs::read_dir("schema")? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
