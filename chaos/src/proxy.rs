//! Wires between the processes and the server that can be cut, silenced and slowed down.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use fastrand::Rng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cable::Cable;

/// What the wire does to the connections that exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    Fair,
    /// Every piece of data comes so much later.
    Slow(Duration),
    /// Nothing comes through, for as long as it lasts.
    Still,
}

/// A wire for each process, so that one can be cut off while the others are not.
#[derive(Debug)]
pub(crate) struct Wires {
    wires: Vec<Proxy>,
    /// With their connections; ended with the wires.
    _listeners: JoinSet<()>,
}

impl Wires {
    pub(crate) async fn start(target: u16, cables: Vec<Option<Cable>>) -> Result<Self> {
        let (mut wires, mut listeners) = (Vec::new(), JoinSet::new());
        for cable in cables {
            wires.push(Proxy::start(target, cable, &mut listeners).await?);
        }
        Ok(Self { wires, _listeners: listeners })
    }

    pub(crate) fn all(&self) -> &[Proxy] {
        &self.wires
    }

    /// One of them.
    pub(crate) fn draw(&self, random: &mut Rng) -> &[Proxy] {
        let index = random.usize(..self.wires.len());
        &self.wires[index..=index]
    }

    /// Leads to another server from now on, as a balancer does that has found the primary gone.
    pub(crate) fn lead_to(&self, target: u16) {
        for wire in &self.wires {
            wire.target.store(target, Ordering::Relaxed);
            wire.cut();
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    /// Where it listens.
    address: SocketAddr,
    /// Between it and its process.
    cable: Option<Arc<Cable>>,
    /// Where new connections lead.
    target: Arc<AtomicU16>,
    weather: watch::Sender<Weather>,
    /// Connections up to this one are closed.
    cut: watch::Sender<u64>,
    /// Connections up to this one are dead without a word: both sides wait.
    dead: watch::Sender<u64>,
    /// Connections up to this one carry no more answers: what is asked for is done all the same.
    silent: watch::Sender<u64>,
    last: Arc<AtomicU64>,
}

impl Proxy {
    async fn start(target: u16, cable: Option<Cable>, listeners: &mut JoinSet<()>) -> Result<Self> {
        let address = cable.as_ref().map_or(Ipv4Addr::LOCALHOST, Cable::address);
        let listener = TcpListener::bind((address, 0)).await.context("cannot bind a proxy")?;
        let proxy = Self {
            address: listener.local_addr()?,
            cable: cable.map(Arc::new),
            target: Arc::new(AtomicU16::new(target)),
            weather: watch::Sender::new(Weather::Fair),
            cut: watch::Sender::new(0),
            dead: watch::Sender::new(0),
            silent: watch::Sender::new(0),
            last: Arc::default(),
        };
        listeners.spawn(proxy.clone().listen(listener));
        Ok(proxy)
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The network that its process is in, if that is not the rig's.
    pub(crate) fn namespace(&self) -> Option<PathBuf> {
        self.cable.as_deref().map(Cable::namespace)
    }

    pub(crate) fn cable(&self) -> Option<&Cable> {
        self.cable.as_deref()
    }

    /// Whether anybody has come through it.
    pub(crate) fn was_used(&self) -> bool {
        self.last.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn weather(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Closes every connection that exists.
    pub(crate) fn cut(&self) {
        self.cut.send_replace(self.last.load(Ordering::Relaxed));
    }

    /// Drops whatever the connections that exist carry from now on, and tells nobody.
    pub(crate) fn half_open(&self) {
        self.dead.send_replace(self.last.load(Ordering::Relaxed));
    }

    /// Drops the answers on the connections that exist, and lets the requests through.
    pub(crate) fn silence(&self) {
        self.silent.send_replace(self.last.load(Ordering::Relaxed));
    }

    async fn listen(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            while connections.try_join_next().is_some() {}
            let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
            let proxy = self.clone();
            connections.spawn(async move {
                // A server that is away refuses, and so do we: the client is dropped.
                if let Ok(server) =
                    TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.target.load(Ordering::Relaxed))).await
                {
                    let _ = (client.set_nodelay(true), server.set_nodelay(true));
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    tokio::select! {
                        () = proxy.carry(number, &proxy.dead, from_client, to_server) => {}
                        () = async {
                            proxy.carry(number, &proxy.silent, from_server, to_client).await;
                            proxy.is_heard(number).await;
                        } => {}
                        () = proxy.is_cut(number) => {}
                    }
                }
            });
        }
    }

    /// On a connection that carries no more answers nobody hears that the server has closed it either.
    async fn is_heard(&self, number: u64) {
        if (*self.dead.borrow()).max(*self.silent.borrow()) >= number {
            std::future::pending::<()>().await;
        }
    }

    async fn is_cut(&self, number: u64) {
        let _ = self.cut.subscribe().wait_for(|cut| *cut >= number).await;
    }

    /// In one direction; what comes on connections up to `lost` goes nowhere.
    async fn carry(&self, number: u64, lost: &watch::Sender<u64>, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut weather = self.weather.subscribe();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
            if weather.wait_for(|weather| *weather != Weather::Still).await.is_err() {
                return;
            }
            let slow = *weather.borrow_and_update();
            if let Weather::Slow(delay) = slow {
                tokio::time::sleep(delay).await;
            }
            if (*lost.borrow()).max(*self.dead.borrow()) >= number {
                // Until it is cut.
                std::future::pending::<()>().await;
            }
            if to.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    }
}
