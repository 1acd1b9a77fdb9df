//! The binary `starling`; everything is in the library, so that tests can reach it.

fn main() -> std::process::ExitCode {
    starling::main()
}
