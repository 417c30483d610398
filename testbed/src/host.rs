//! Where a server runs: as a program of this machine, or in a container.

use std::path::PathBuf;

use anyhow::Result;

use crate::container::Container;
use crate::local::Local;

/// A running server, whatever runs it; [`DatabaseServer`](crate::DatabaseServer) documents the operations.
#[derive(Debug)]
pub struct Host(Place);

#[derive(Debug)]
enum Place {
    Local(Local),
    Container(Container),
}

impl From<Local> for Host {
    fn from(local: Local) -> Self {
        Self(Place::Local(local))
    }
}

impl From<Container> for Host {
    fn from(container: Container) -> Self {
        Self(Place::Container(container))
    }
}

impl Host {
    pub(crate) fn port(&self) -> u16 {
        match &self.0 {
            Place::Local(local) => local.port(),
            Place::Container(container) => container.port(),
        }
    }

    pub(crate) fn data_dir(&self) -> Option<PathBuf> {
        match &self.0 {
            Place::Local(local) => Some(local.data_dir()),
            Place::Container(_) => None,
        }
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        match &self.0 {
            Place::Local(local) => local.pid(),
            Place::Container(_) => None,
        }
    }

    pub(crate) fn start(&mut self) -> Result<()> {
        match &mut self.0 {
            Place::Local(local) => local.start(),
            Place::Container(container) => container.start(),
        }
    }

    pub(crate) fn stop(&mut self) -> Result<()> {
        match &mut self.0 {
            Place::Local(local) => local.stop(),
            Place::Container(container) => container.stop(),
        }
    }

    pub(crate) fn stop_immediate(&mut self) -> Result<()> {
        match &mut self.0 {
            Place::Local(local) => local.stop_immediate(),
            Place::Container(container) => container.stop_immediate(),
        }
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        match &mut self.0 {
            Place::Local(local) => local.kill(),
            Place::Container(container) => container.kill(),
        }
    }

    pub(crate) fn is_running(&mut self) -> Result<bool> {
        match &mut self.0 {
            Place::Local(local) => local.is_running(),
            Place::Container(container) => container.is_running(),
        }
    }

    /// The container's name and the Docker command, to run a client inside.
    pub(crate) fn container(&self) -> Option<&Container> {
        match &self.0 {
            Place::Local(_) => None,
            Place::Container(container) => Some(container),
        }
    }
}
