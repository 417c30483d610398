//! Cuts the Rust blocks out of the README, so that each becomes a program of this package.

use std::path::Path;
use std::{env, fs};

fn main() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    println!("cargo::rerun-if-changed={}", readme.display());
    let text = fs::read_to_string(&readme).expect("the README is where it belongs");
    let folder = env::var_os("OUT_DIR").expect("cargo sets it");
    for (number, mut block) in blocks(&text).into_iter().enumerate() {
        if !block.contains("fn main()") {
            block.push_str("\nfn main() {}\n");
        }
        let path = Path::new(&folder).join(format!("readme-{}.rs", number + 1));
        fs::write(path, block).expect("the folder can be written");
    }
}

/// What stands between a line that starts a Rust block and the line that ends it.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line == "```rust" {
            let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push(block.join("\n"));
        }
    }
    blocks
}
