//! The user under which a server runs.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

/// An ordinary user to which a server is demoted, because PostgreSQL refuses to run as root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// The first of `names` that this machine knows, else `nobody`; `None` when we are an ordinary user already.
    pub(crate) fn for_server(names: &[&str]) -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let users =
            fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd to find a user for the server")?;
        let account = names.iter().chain(&["nobody"]).find_map(|name| find(&users, name)).with_context(|| {
            format!("running as root, and none of the users {names:?} or `nobody` exists to run a server")
        })?;
        Ok(Some(account))
    }

    /// Runs `command` as this user, without our supplementary groups.
    pub(crate) fn assume<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.uid(self.uid).gid(self.gid)
    }

    /// Gives `path` to this user.
    pub(crate) fn own(&self, path: &Path) -> Result<()> {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
            .with_context(|| format!("cannot give {} to user {}", path.display(), self.uid))
    }
}

fn find(users: &str, name: &str) -> Option<Account> {
    let mut fields =
        users.lines().map(|line| line.split(':')).find_map(|mut fields| (fields.next()? == name).then_some(fields))?;
    let _password = fields.next()?;
    let uid = fields.next()?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    (uid != 0).then_some(Account { uid, gid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_user_by_its_whole_name_and_never_root() {
        let users = "root:x:0:0::/root:/bin/sh\npostgresql:x:5:6::/:\npostgres:x:101:104:,,,:/var/lib:/bin/bash\n";
        assert_eq!(find(users, "postgres"), Some(Account { uid: 101, gid: 104 }));
        assert_eq!(find(users, "root"), None);
        assert_eq!(find(users, "mysql"), None);
    }
}
