//! The README's programs run, and its translation is the same document.
#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use std::process::Command;

const ENGLISH: &str = include_str!("../../README.md");
const RUSSIAN: &str = include_str!("../../README.ru.md");

/// Runs a program in an empty folder, twice: the second time it finds the database of the first.
fn run(program: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut printed = String::new();
    for _ in 0..2 {
        let output = Command::new(program).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        printed.push_str(&String::from_utf8(output.stdout).unwrap());
    }
    assert!(folder.path().join("app.db").exists());
    printed
}

#[test]
fn the_first_quick_start_sends_two_emails() {
    let printed = run(env!("CARGO_BIN_EXE_readme-1"));
    let once = "to ada@example.org: Welcome\nto alan@example.org: Welcome\n";
    assert_eq!(printed, once.repeat(2));
}

#[test]
fn the_second_quick_start_sends_an_email_to_whom_a_request_has_found() {
    let printed = run(env!("CARGO_BIN_EXE_readme-2"));
    assert_eq!(printed, "to user123@example.org: Welcome\n".repeat(2));
}

#[test]
fn each_rust_block_of_the_readme_is_a_program() {
    let blocks = ENGLISH.lines().filter(|line| line.starts_with("```rust")).count();
    assert_eq!(blocks, 3, "a block more or less: change the programs of this package");
    assert!(!ENGLISH.contains("```rust,"), "each block is compiled and run as it stands");
    // Compiled, like the others; there is nothing to run in it.
    assert!(Command::new(env!("CARGO_BIN_EXE_readme-3")).status().unwrap().success());
}

/// What two languages must share.
#[derive(Debug, PartialEq, Eq)]
enum Shared {
    Heading(usize),
    Code(String),
    /// The number of cells.
    TableRow(usize),
    ListItem,
}

fn shared(document: &str) -> Vec<Shared> {
    let mut shared = Vec::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("```") {
            let code: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            shared.push(Shared::Code(format!("{line}\n{}", code.join("\n"))));
        } else if line.starts_with('#') {
            shared.push(Shared::Heading(line.chars().take_while(|letter| *letter == '#').count()));
        } else if line.starts_with('|') {
            shared.push(Shared::TableRow(line.matches('|').count() - 1));
        } else if line.starts_with("- ") {
            shared.push(Shared::ListItem);
        }
    }
    shared
}

/// The targets of all links, with one name for the README in the other language.
fn links(document: &str) -> Vec<&str> {
    let mut links: Vec<&str> = document.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    for link in &mut links {
        if link.starts_with("README") {
            *link = "the other language";
        }
    }
    links.sort_unstable();
    links
}

#[test]
fn the_translation_has_the_same_headings_tables_lists_and_code() {
    for (at, (english, russian)) in std::iter::zip(shared(ENGLISH), shared(RUSSIAN)).enumerate() {
        assert_eq!(english, russian, "part {at}");
    }
    assert_eq!(shared(ENGLISH).len(), shared(RUSSIAN).len());
}

#[test]
fn the_translation_links_to_the_same_places() {
    assert_eq!(links(ENGLISH), links(RUSSIAN));
    assert!(ENGLISH.contains("(README.ru.md)") && RUSSIAN.contains("(README.md)"));
}
