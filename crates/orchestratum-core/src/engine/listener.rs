//! The listener: hears of appends that other processes have committed, or sees that somebody has written.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::engine::backoff::Backoff;
use crate::engine::{Shared, guarded};
use crate::error::Result;
use crate::store::Store;

/// Between two looks at the files of the database: some questions to the kernel, none to the database.
const LOOK: Duration = Duration::from_millis(10);

/// Runs until the worker stops; a lost connection is opened again, and everything is surveyed then, because nobody
/// knows what was said meanwhile.
pub(crate) async fn run(shared: Arc<Shared>, store: Store, stopping: CancellationToken) {
    let mut backoff = Backoff::new("listener");
    while !stopping.is_cancelled() {
        let hearing = async {
            if store.announces() {
                listen(&shared, &store, &mut backoff).await
            } else {
                watch(&shared, &store, &mut backoff).await
            }
        };
        let result = tokio::select! {
            result = guarded(hearing) => result,
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

async fn listen(shared: &Shared, store: &Store, backoff: &mut Backoff) -> Result<Infallible> {
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
}

async fn watch(shared: &Shared, store: &Store, backoff: &mut Backoff) -> Result<Infallible> {
    let mut files = store.files().await?;
    backoff.succeeded();
    shared.wake.survey();
    loop {
        tokio::time::sleep(LOOK).await;
        if files.changed() {
            shared.wake.changed();
        }
    }
}
