//! The documents say what the code says.
#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every Rust file below a folder, with its path relative to the root.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let path = format!("{folder}/{name}");
        if root().join(&path).is_dir() {
            found.extend(sources(&path));
        } else if name.ends_with(".rs") {
            found.push((path.clone(), read(&path)));
        }
    }
    found
}

/// What stands in backticks.
fn quoted(document: &str) -> BTreeSet<&str> {
    document.split('`').skip(1).step_by(2).collect()
}

/// The words that follow `before` in a text, up to the first character that is no part of a name.
fn names_after<'a>(text: &'a str, before: &str) -> BTreeSet<&'a str> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let ends = |rest: &'a str| rest.find(|letter| !is_name(letter)).unwrap_or(rest.len());
    text.split(before).skip(1).map(|rest| &rest[..ends(rest)]).filter(|name| !name.is_empty()).collect()
}

#[test]
fn every_case_that_a_guarantee_names_is_in_the_suite() {
    let document = read("docs/guarantees.md");
    let suite: String = sources("crates/orchestratum-core")
        .into_iter()
        .filter(|(path, _)| path.contains("/tests") || path.ends_with("/model.rs") || path.ends_with("/heartbeat.rs"))
        .map(|(_, text)| text)
        .collect();
    let held_by: Vec<_> = document.lines().filter(|line| line.starts_with("*Held by*")).collect();
    assert_eq!(held_by.len(), 13);
    for line in held_by {
        for case in quoted(line) {
            assert!(suite.contains(&format!("fn {case}(")), "no case `{case}`");
        }
    }
}

/// A row names where the protection is and what failed without it.
#[test]
fn every_protection_that_was_taken_out_is_where_the_document_says() {
    let document = read("docs/guarantees.md");
    let table = document.split("### Each protection taken out").nth(1).unwrap_or_default();
    let suite: String = sources("crates/orchestratum-core").into_iter().map(|(_, text)| text).collect();
    let rows = table.lines().filter(|line| line.starts_with("| ")).skip(1);
    let (mut file, mut count) = (String::new(), 0);
    for row in rows {
        let cells: Vec<&str> = row.split('|').collect();
        for name in cells[2].split('`').skip(1).step_by(2) {
            if name.ends_with(".rs") {
                file = read(&format!("crates/orchestratum-core/src/{name}"));
            } else {
                let name = name.rsplit(':').next().unwrap_or(name);
                let known = ["fn", "const", "static"].iter().any(|word| file.contains(&format!("{word} {name}")));
                assert!(known, "no `{name}` where {row} has it");
            }
        }
        for case in cells[3].split('`').skip(1).step_by(2) {
            assert!(suite.contains(&format!("fn {case}(")), "no case `{case}`");
        }
        count += 1;
    }
    assert!(count > 10, "{count} rows");
}

#[test]
fn every_option_of_the_builder_is_documented() {
    let builder = read("crates/orchestratum-core/src/builder.rs");
    let document = read("docs/configuration.md");
    let documented: BTreeSet<&str> =
        quoted(&document).into_iter().map(|code| code.split(['(', ':']).next().unwrap_or(code)).collect();
    let methods = names_after(&builder, "pub fn ").into_iter().chain(names_after(&builder, "pub const fn "));
    let list = builder.split("    options! {").nth(1).and_then(|rest| rest.split("\n    }").next()).unwrap();
    let options = list.lines().filter_map(|line| line.trim().split_once(": ")).map(|(name, _)| name);
    let options: Vec<_> = options.filter(|name| !name.starts_with('/')).collect();
    assert!(options.len() > 10, "{options:?}");
    for option in methods.chain(options).filter(|name| *name != "new") {
        assert!(documented.contains(option), "`{option}` is missing in docs/configuration.md");
    }
}

/// The builder's words against what `Config` begins with, where both are plain numbers.
#[test]
fn the_builder_names_the_defaults_that_it_has() {
    let config = read("crates/orchestratum-core/src/config.rs");
    let builder = read("crates/orchestratum-core/src/builder.rs");
    let number = |text: &str| text.replace([',', '_'], "").parse::<u64>().ok();
    let mut compared = 0;
    for (document, option) in std::iter::zip(builder.lines(), builder.lines().skip(1)) {
        let Some((_, rest)) = document.split_once("Default ") else { continue };
        let said = rest.split([' ', ';', ':']).next().map(|word| word.trim_end_matches('.')).and_then(number);
        let Some((_, name)) = option.trim_end_matches(';').split_once(" => ") else { continue };
        let is =
            config.split(&format!("            {name}: ")).nth(1).and_then(|rest| number(rest.split(",\n").next()?));
        if let (Some(said), Some(is)) = (said, is) {
            assert_eq!(said, is, "{name}: {document}");
            compared += 1;
        }
    }
    assert_eq!(compared, 5, "retries, batch, concurrency, lost leases, connections");
}

#[test]
fn every_option_of_a_command_is_documented() {
    let document = read("docs/configuration.md");
    let append = read("crates/orchestratum-core/src/append.rs");
    for option in names_after(&append, "    pub fn ") {
        assert!(quoted(&document).contains(option), "`{option}` is missing in docs/configuration.md");
    }
}

#[test]
fn events_are_those_of_the_document() {
    let document = read("docs/operations.md");
    let documented: BTreeSet<&str> = quoted(&document)
        .into_iter()
        .filter(|code| code.starts_with("orchestratum::") && !code.contains('='))
        .collect();
    let sources: String =
        sources("crates").into_iter().filter(|(path, _)| path.contains("/src/")).map(|(_, text)| text).collect();
    let targets = sources.split("target: \"").skip(1).filter_map(|rest| rest.split('"').next());
    let emitted: BTreeSet<&str> = targets.filter(|name| name.starts_with("orchestratum::")).collect();
    assert_eq!(documented, emitted);
}

#[test]
fn every_file_that_the_architecture_names_exists() {
    let document = read("docs/ARCHITECTURE.md");
    let folders =
        ["", "crates/orchestratum-core/", "crates/orchestratum-core/src/", "crates/orchestratum-core/src/store/"];
    let folders = folders.into_iter().chain(["migration/src/"]);
    for name in quoted(&document).into_iter().filter(|code| code.ends_with(".rs") || code.ends_with(".md")) {
        let exists = folders.clone().chain(["docs/"]).any(|folder| root().join(folder).join(name).exists());
        assert!(exists, "no file `{name}`");
    }
}

#[test]
fn invariants_of_the_architecture_hold() {
    for (path, text) in sources("crates/orchestratum-core/src") {
        let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        let path = path.trim_start_matches("crates/orchestratum-core/src/");
        let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let has = |words: &[&'static str]| words.iter().find(|word| code.contains(**word)).copied();
        if path.starts_with("engine") {
            assert_eq!(has(&["SELECT ", "UPDATE ", "INSERT ", "DELETE ", ".sql("]), None, "{path} knows SQL");
        }
        if path.starts_with("store") {
            assert_eq!(has(&["tokio::spawn", "spawn_blocking", "sleep("]), None, "{path} spawns or sleeps");
        }
        if !path.starts_with("store/backend") && !path.starts_with("store/tests") {
            let databases = ["Backend::Sqlite", "Backend::Postgres", "Backend::My"];
            assert_eq!(has(&databases), None, "{path} asks which database it is");
        }
        if ["state.rs", "outcome.rs", "retry.rs", "config.rs"].contains(&path) {
            let impure = ["::now", "fastrand", "std::fs", "std::env", "async "];
            assert_eq!(has(&impure), None, "{path} is not pure");
        }
    }
    assert!(!read("migration/Cargo.toml").contains("orchestratum-core"), "migration imports core");
    for needed in ["orchestratum-mediator", "orchestratum-macros"] {
        assert!(!read("crates/orchestratum-core/Cargo.toml").contains(needed), "core knows {needed}");
    }
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let pages = [
        "README.md",
        "README.ru.md",
        "CHANGELOG.md",
        "docs/ARCHITECTURE.md",
        "docs/lifecycle.md",
        "docs/guarantees.md",
    ];
    let more = ["docs/databases.md", "docs/configuration.md", "docs/operations.md", "docs/coming-from-dotnet.md"];
    let rest = ["docs/scaling.md", "docs/comparison.md", "docs/performance.md", "SECURITY.md"];
    for page in pages.into_iter().chain(more).chain(rest) {
        let text = read(page);
        let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        let folder = Path::new(page).parent().unwrap();
        for link in links.filter(|link| !link.starts_with("http") && !link.is_empty()) {
            assert!(root().join(folder).join(link).exists(), "{page}: no {link}");
        }
    }
}
