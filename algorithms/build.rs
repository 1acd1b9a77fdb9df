//! Turns every file of `src/rules/` into a module and a row of `RULES`, so that a new algorithm is
//! one new file and no edit elsewhere.

use std::{env, error::Error, fmt::Write, fs, path::Path};

#[allow(clippy::disallowed_methods, reason = "a build script is a driver")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=src/rules");
    let root = env::var("CARGO_MANIFEST_DIR")?;
    let mut names = Vec::new();
    for entry in fs::read_dir(Path::new(&root).join("src/rules"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
        }
    }
    names.sort();
    let mut out = String::new();
    for name in &names {
        writeln!(out, "#[path = \"{root}/src/rules/{name}.rs\"]\npub mod {name};")?;
    }
    let rows: Vec<String> = names.iter().map(|name| format!("{name}::RULE")).collect();
    writeln!(
        out,
        "/// Every rule, in name order.\npub const RULES: &[crate::Rule] = &[{}];",
        rows.join(", ")
    )?;
    fs::write(Path::new(&env::var("OUT_DIR")?).join("rules.rs"), out)?;
    Ok(())
}
