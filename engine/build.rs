//! Passes the target triple, which only build scripts get, to `--version`.

fn main() {
    let target = std::env::var("TARGET").unwrap_or_else(|_| "unknown".to_owned());
    println!("cargo::rustc-env=SELFPLAY_TARGET={target}");
    println!("cargo::rerun-if-changed=build.rs");
}
