//! Announcements of other processes, where the database has them.

use std::time::Duration;

use crate::error::Result;
use crate::store::Store;
use crate::store::append::CHANNEL;
use crate::store::claim::Lane;

/// A connection that hears of appends.
#[derive(Debug)]
pub(crate) struct Listener {
    #[cfg(feature = "postgres")]
    inner: sea_orm::sqlx::postgres::PgListener,
}

/// After so long without a word the connection is asked whether it lives.
#[cfg(feature = "postgres")]
const SILENCE: Duration = Duration::from_secs(60);
#[cfg(feature = "postgres")]
const PATIENCE: Duration = Duration::from_secs(10);

/// What is announced when a running command should be canceled.
pub(crate) const CANCEL: &str = "cancel";

impl Store {
    /// Opens a connection that hears every announcement committed from now on.
    #[cfg(feature = "postgres")]
    pub(crate) async fn listen(&self) -> Result<Listener> {
        let options = self.connection().get_postgres_connection_pool().connect_options().as_ref().clone();
        let pool = sea_orm::sqlx::postgres::PgPoolOptions::new().max_connections(1).connect_lazy_with(options);
        let mut inner = sea_orm::sqlx::postgres::PgListener::connect_with(&pool).await.map_err(lost)?;
        // A connection that was lost and opened again by itself would hide what was said in between.
        inner.eager_reconnect(false);
        inner.listen(CHANNEL).await.map_err(lost)?;
        Ok(Listener { inner })
    }

    /// Nothing is ever announced.
    #[cfg(not(feature = "postgres"))]
    pub(crate) async fn listen(&self) -> Result<Listener> {
        let _ = CHANNEL;
        std::future::pending().await
    }
}

impl Listener {
    /// The next lane that has a command, and after what time it is due; `None`: a command should be canceled.
    #[cfg(feature = "postgres")]
    pub(crate) async fn next(&mut self) -> Result<Option<(Lane, Duration)>> {
        loop {
            let Ok(heard) = tokio::time::timeout(SILENCE, self.inner.try_recv()).await else {
                // A connection that was cut without a word is silent for ever: ask.
                let alive = tokio::time::timeout(PATIENCE, self.inner.listen(CHANNEL)).await;
                alive
                    .map_err(|_| sea_orm::DbErr::Custom("the listening connection is dead".to_owned()))?
                    .map_err(lost)?;
                continue;
            };
            let Some(notification) = heard.map_err(lost)? else {
                return Err(sea_orm::DbErr::Custom("the listening connection was lost".to_owned()).into());
            };
            if notification.payload() == CANCEL {
                return Ok(None);
            }
            // Anything else on the channel is none of ours.
            if let Some(heard) = lane(notification.payload()) {
                return Ok(Some(heard));
            }
        }
    }

    #[cfg(not(feature = "postgres"))]
    pub(crate) async fn next(&mut self) -> Result<Option<(Lane, Duration)>> {
        std::future::pending().await
    }
}

/// The lane that is announced so, and after what time its command is due.
#[cfg(feature = "postgres")]
fn lane(text: &str) -> Option<(Lane, Duration)> {
    let (queue, key, priority, micros) = serde_json::from_str(text).ok()?;
    Some((Lane { queue, key, priority }, Duration::from_micros(micros)))
}

#[cfg(feature = "postgres")]
fn lost(error: sea_orm::sqlx::Error) -> crate::error::Error {
    crate::error::Error::Database(sea_orm::DbErr::Conn(sea_orm::RuntimeErr::SqlxError(error.into())))
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whoever may connect to the database can write to the channel.
        #[test]
        fn nothing_on_the_channel_ends_the_listener(
            text in prop_oneof![any::<String>(), r#"\[("[a-z]{0,3}",?){0,3}(-?[0-9]{1,20},?){0,3}\]?"#],
        ) {
            let _ = lane(&text);
        }

        #[test]
        fn any_lane_is_understood(queue: String, key: String, priority: i16, micros: u64) {
            let text = serde_json::json!([queue, key, priority, micros]).to_string();
            prop_assert_eq!(lane(&text), Some((Lane { queue, key, priority }, Duration::from_micros(micros))));
        }
    }

    #[test]
    fn what_is_announced_is_understood() {
        let lane_of = |key: &str| Lane { queue: "q".to_owned(), key: key.to_owned(), priority: -7 };
        assert_eq!(lane(r#"["q","k",-7,5]"#), Some((lane_of("k"), Duration::from_micros(5))));
        assert_eq!(lane(r#"["q","k",-7]"#), None);
        assert_eq!(lane(r#"["q","k",40000,5]"#), None);
    }
}
