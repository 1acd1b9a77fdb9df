//! Every kernel of every `*.cu` here through NVRTC, for two generations of GPUs, without a GPU.
//!
//! NVRTC is a library of its own: `pip install nvidia-cuda-nvrtc`, then `STARLING_NVRTC` names its
//! `libnvrtc.so.*`. Without it the test says that it was skipped; where `STARLING_NVRTC_NEEDED` is set,
//! as in continuous integration, it fails instead.

use super::nvrtc::{Compiler, Source};

/// Names and texts of all files of kernels.
fn files() -> Vec<Source> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine/cuda");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let sources = entries.filter(|path| path.extension().is_some_and(|end| end == "cu"));
    let leak = |text: String| &*Box::leak(text.into_boxed_str());
    let read = |path: std::path::PathBuf| Source {
        name: leak(path.file_name().unwrap().to_string_lossy().into_owned()),
        text: leak(std::fs::read_to_string(&path).unwrap()),
    };
    sources.map(read).collect()
}

#[test]
fn every_kernel_compiles_for_two_generations() {
    let compiler = match Compiler::open() {
        Ok(compiler) => compiler,
        Err(reason) => {
            assert!(std::env::var_os("STARLING_NVRTC_NEEDED").is_none(), "{reason}");
            println!("skipped: {reason}");
            return;
        }
    };
    let files = files();
    assert!(files.iter().any(|file| file.name == "vectors.cu"), "{files:?}");
    for source in &files {
        let names: Vec<&str> = source.kernels().collect();
        assert!(!names.is_empty(), "{} has no kernels", source.name);
        for capability in [(8, 0), (9, 0)] {
            let code = compiler.compile(source, capability).unwrap_or_else(|log| panic!("{log}"));
            for name in &names {
                let entry = format!(".text.{name}\0");
                let found = code.windows(entry.len()).any(|window| window == entry.as_bytes());
                assert!(found, "{name} of {} is not in the code for {capability:?}", source.name);
            }
        }
    }
    let wrong = Source { name: "wrong.cu", text: "extern \"C\" __global__ void f() { no }" };
    let log = compiler.compile(&wrong, (8, 0)).unwrap_err();
    assert!(log.contains("wrong.cu") && log.contains("no"), "{log}");
}
