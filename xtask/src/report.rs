//! The table at the end of a test run, and what is wrong with the run beyond failed tests.
//!
//! One behavioral suite runs on all databases: its cases are named `topic::sentence::backend`, and a case that exists
//! on one backend only is a guarantee that nobody checks on the others.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::results::{Results, Test, Verdict};

/// The last part of a case's name.
pub(crate) const BACKENDS: [&str; 3] = ["sqlite", "postgres", "mariadb"];

/// How many names a message lists before it only counts.
const NAMES_SHOWN: usize = 20;

/// What was meant to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All tests on all backends.
    Everything,
    /// All tests; the cases of the other backends skip themselves.
    SqliteOnly,
    /// Some tests: comparing backends would compare what the filter let through.
    Selected,
}

/// Passed, failed and ignored cases per backend, all other tests in the last row. The cases of a backend that was left
/// out end without having looked at anything: they have not passed.
pub(crate) fn table(results: &Results, sqlite_only: bool) -> String {
    let mut table = format!("{:<12}{:>8}{:>8}{:>9}\n", "backend", "passed", "failed", "ignored");
    for backend in BACKENDS.map(Some).into_iter().chain([None]) {
        if let Some(left_out) = backend.filter(|backend| sqlite_only && *backend != "sqlite") {
            let _ = writeln!(table, "{left_out:<12}left out");
            continue;
        }
        let count = |wanted| {
            results.tests().filter(|(test, verdict)| *verdict == wanted && backend_of(test) == backend).count()
        };
        let (passed, failed, ignored) = (count(Verdict::Passed), count(Verdict::Failed), count(Verdict::Ignored));
        let name = backend.unwrap_or("other tests");
        let _ = writeln!(table, "{name:<12}{passed:>8}{failed:>8}{ignored:>9}");
    }
    table
}

/// Failed tests, backends without a case, cases that did not run on each backend; empty when all is well.
pub(crate) fn problems(results: &Results, scope: Scope) -> Vec<String> {
    let mut problems = Vec::new();
    let failed: Vec<_> = results
        .tests()
        .filter(|(_, verdict)| *verdict == Verdict::Failed)
        .map(|(test, _)| test.name.as_str())
        .collect();
    if !failed.is_empty() {
        problems.push(format!("{} failed:{}", plural(failed.len(), "test"), listed(&failed)));
    }
    match scope {
        Scope::Everything => {
            problems.extend(without_cases(results, &BACKENDS));
            problems.extend(differences(results));
        }
        Scope::SqliteOnly => problems.extend(without_cases(results, &["sqlite"])),
        Scope::Selected => {}
    }
    problems
}

fn without_cases(results: &Results, backends: &[&str]) -> Vec<String> {
    let silent = backends.iter().filter(|backend| cases(results, backend).is_empty());
    silent.map(|backend| format!("not one case ran on {backend}")).collect()
}

/// One message per backend that lacks cases which ran on another one.
fn differences(results: &Results) -> Vec<String> {
    let all: BTreeSet<_> = BACKENDS.iter().flat_map(|backend| cases(results, backend)).collect();
    let lacking = BACKENDS.iter().filter_map(|backend| {
        let own = cases(results, backend);
        let missing: Vec<_> = all.difference(&own).map(|(_, case)| *case).collect();
        // A backend without any case has a message of its own.
        (!missing.is_empty() && !own.is_empty()).then(|| {
            format!(
                "{} ran on another backend and not on {backend}:{}",
                plural(missing.len(), "case"),
                listed(&missing)
            )
        })
    });
    lacking.collect()
}

/// The cases that ran on `backend`, by program and name without the backend. An ignored one did not run.
fn cases<'a>(results: &'a Results, backend: &str) -> BTreeSet<(&'a str, &'a str)> {
    let ran = results.tests().filter(|(_, verdict)| *verdict != Verdict::Ignored);
    ran.filter_map(|(test, _)| {
        split(test).filter(|(_, of)| *of == backend).map(|(case, _)| (test.program.as_str(), case))
    })
    .collect()
}

fn backend_of(test: &Test) -> Option<&str> {
    split(test).map(|(_, backend)| backend)
}

fn split(test: &Test) -> Option<(&str, &str)> {
    test.name.rsplit_once("::").filter(|(_, backend)| BACKENDS.contains(backend))
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

fn listed(names: &[&str]) -> String {
    let mut list: String = names.iter().take(NAMES_SHOWN).map(|name| format!("\n    {name}")).collect();
    if names.len() > NAMES_SHOWN {
        let _ = write!(list, "\n    … and {} more", names.len() - NAMES_SHOWN);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Results {
        let mut results = Results::default();
        lines.iter().for_each(|line| results.feed(format!("{line}\n").as_bytes()));
        results
    }

    const COMPLETE: [&str; 5] = [
        "     Running tests/suite.rs (target/suite-1)",
        "test append::is_durable::sqlite ... ok",
        "test append::is_durable::postgres ... ok",
        "test append::is_durable::mariadb ... ok",
        "test state::table_matches ... ok",
    ];

    #[test]
    fn complete_run_has_no_problem() {
        let results = read(&COMPLETE);
        assert_eq!(problems(&results, Scope::Everything), [""; 0]);
        assert_eq!(
            table(&results, false),
            "\
backend       passed  failed  ignored
sqlite             1       0        0
postgres           1       0        0
mariadb            1       0        0
other tests        1       0        0
"
        );
    }

    #[test]
    fn what_was_left_out_has_not_passed() {
        let table = table(&read(&COMPLETE), true);
        assert!(table.contains("sqlite             1"), "{table}");
        assert!(table.contains("postgres    left out\nmariadb     left out\n"), "{table}");
    }

    #[test]
    fn failed_test_is_named() {
        let results = read(&["test a::b::sqlite ... FAILED"]);
        assert_eq!(problems(&results, Scope::Selected), ["1 test failed:\n    a::b::sqlite"]);
    }

    #[test]
    fn backend_that_ran_nothing_is_a_problem() {
        let results = read(&COMPLETE[..3]);
        assert_eq!(problems(&results, Scope::Everything), ["not one case ran on mariadb"]);
        assert_eq!(problems(&results, Scope::SqliteOnly), [""; 0]);
        assert_eq!(problems(&read(&[]), Scope::SqliteOnly), ["not one case ran on sqlite"]);
    }

    #[test]
    fn case_of_one_backend_is_a_problem_for_the_others() {
        let mut lines = COMPLETE.to_vec();
        lines.extend(["test lock::is_held::postgres ... ok", "test lock::is_held::mariadb ... ignored, not there"]);
        let found = problems(&read(&lines), Scope::Everything);
        assert_eq!(
            found,
            [
                "1 case ran on another backend and not on sqlite:\n    lock::is_held",
                "1 case ran on another backend and not on mariadb:\n    lock::is_held",
            ]
        );
        assert_eq!(problems(&read(&lines), Scope::Selected), [""; 0]);
    }

    #[test]
    fn same_case_in_another_program_does_not_stand_in() {
        let mut lines = COMPLETE[..3].to_vec();
        lines.extend(["     Running tests/other.rs (target/other-1)", "test append::is_durable::mariadb ... ok"]);
        assert_eq!(problems(&read(&lines), Scope::Everything).len(), 3);
    }
}
