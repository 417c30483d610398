//! The command line, where it does not get as far as a database.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a case that cannot go on says where")]

use std::process::Command;

#[test]
fn an_address_that_cannot_be_used_is_told_without_its_password() {
    for address in
        ["postgres://u:a/secret@localhost/app", "mariadb://u:a#secret@localhost/app", "http://u:secret@localhost/app"]
    {
        let output = Command::new(env!("CARGO_BIN_EXE_orchestratum-migration"))
            .args(["--database-url", address, "status"])
            .env_remove("DATABASE_URL")
            .output()
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains("cannot be reached"), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}
