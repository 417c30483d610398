//! The listener: hears of appends that other processes have committed.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::engine::backoff::Backoff;
use crate::engine::{Shared, guarded};
use crate::store::Store;

/// Runs until the worker stops; a lost connection is opened again, and everything is surveyed then, because nobody
/// knows what was said meanwhile.
pub(crate) async fn run(shared: Arc<Shared>, store: Store, stopping: CancellationToken) {
    let mut backoff = Backoff::new("listener");
    while !stopping.is_cancelled() {
        let listening = async {
            let mut listener = store.listen().await?;
            shared.wake.survey();
            loop {
                let announced = listener.next().await?;
                backoff.succeeded();
                match announced {
                    Some((lane, delay)) => shared.wake.announced(&lane, delay),
                    None => shared.wake.heartbeat(),
                }
            }
        };
        let result: crate::error::Result<std::convert::Infallible> = tokio::select! {
            result = guarded(listening) => result,
            () = stopping.cancelled() => return,
        };
        let Err(error) = result;
        let wait = backoff.failed(&error);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stopping.cancelled() => return,
        }
    }
}
