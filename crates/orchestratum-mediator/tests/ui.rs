//! Mistakes are compile errors that point at what to change. `TRYBUILD=overwrite` writes the texts anew.

#[test]
fn mistakes_are_explained_where_they_are_made() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
