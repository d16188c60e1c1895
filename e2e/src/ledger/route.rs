//! Where writes go: the shards with their nodes, as `CLUSTER SLOTS` tells them, and connections to nodes.

use std::time::{Duration, Instant};

use kv_core::slot::{SLOT_COUNT, Slot, SlotSet};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, RedisResult, Value};

use super::Error;

/// How long a connection may take, its handshake included. A frozen process still accepts connections, so that this
/// bounds how exactly an outage can be measured.
const CONNECT: Duration = Duration::from_millis(200);
const PAUSE: Duration = Duration::from_millis(50);

/// One shard as clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Its slots.
    pub slots: SlotSet,
    /// Address of its master, `HOST:PORT`.
    pub master: String,
    /// Addresses of its replicas.
    pub replicas: Vec<String>,
}

/// All shards in order of their first slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// The shards.
    pub shards: Vec<Shard>,
}

impl Routes {
    /// The shard that serves `slot`.
    #[must_use]
    pub fn shard_of(&self, slot: Slot) -> Option<&Shard> {
        self.shards.iter().find(|shard| shard.slots.contains(slot))
    }

    /// Whether each slot has a shard.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.shards.iter().map(|shard| shard.slots.len()).sum::<usize>() == usize::from(SLOT_COUNT)
    }

    /// Addresses of all nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &String> {
        self.shards.iter().flat_map(|shard| std::iter::once(&shard.master).chain(&shard.replicas))
    }
}

/// How to reach the cluster.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Some addresses, `HOST:PORT`; a name with several addresses is fine.
    pub seeds: Vec<String>,
    /// Password of the default user.
    pub password: Option<String>,
}

impl Access {
    /// A connection to one node whose requests fail after `answer`.
    ///
    /// # Errors
    /// If the node cannot be reached, or refuses.
    pub async fn connect(&self, address: &str, answer: Duration) -> RedisResult<MultiplexedConnection> {
        let (host, port) = address.rsplit_once(':').unwrap_or((address, "6379"));
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let mut info = (host, port.parse::<u16>().unwrap_or(6379)).into_connection_info()?;
        let mut redis = info.redis_settings().clone().set_skip_set_lib_name();
        if let Some(password) = &self.password {
            redis = redis.set_password(password);
        }
        info = info.set_redis_settings(redis);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(answer));
        Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await
    }

    /// The shards as one node tells them.
    ///
    /// # Errors
    /// If the node cannot be asked.
    pub async fn routes_from(&self, address: &str) -> RedisResult<Routes> {
        let mut connection = self.connect(address, Duration::from_secs(1)).await?;
        let reply: Value = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await?;
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        Ok(parse_slots(&reply, host))
    }

    /// The shards as the first node tells them that knows all slots, of those in `known` and of the seeds.
    ///
    /// # Errors
    /// If there is none before the deadline.
    pub async fn routes(&self, known: &[String], within: Duration) -> Result<Routes, Error> {
        let started = Instant::now();
        let mut last = String::from("nobody was asked");
        loop {
            for address in known.iter().chain(&self.seeds) {
                match self.routes_from(address).await {
                    Ok(routes) if routes.complete() => return Ok(routes),
                    Ok(routes) => {
                        let covered: usize = routes.shards.iter().map(|shard| shard.slots.len()).sum();
                        last = format!("{address}: {covered} of {SLOT_COUNT} slots");
                    }
                    Err(error) => last = format!("{address}: {error}"),
                }
            }
            if started.elapsed() > within {
                return Err(Error::NoSlotMap { seeds: self.seeds.clone(), waited_s: within.as_secs(), last });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Reads the reply of `CLUSTER SLOTS`; `asked` stands in for a host that the node does not know.
fn parse_slots(reply: &Value, asked: &str) -> Routes {
    let mut routes = Routes::default();
    let Value::Array(entries) = reply else { return routes };
    for entry in entries {
        let Value::Array(fields) = entry else { continue };
        let mut fields = fields.iter();
        let (Some(Value::Int(first)), Some(Value::Int(last))) = (fields.next(), fields.next()) else {
            continue;
        };
        let slots: SlotSet = (*first..=*last).filter_map(|slot| Slot::try_from(slot).ok()).collect();
        let mut nodes = fields.filter_map(|node| parse_node(node, asked));
        let Some(master) = nodes.next() else { continue };
        let replicas: Vec<String> = nodes.collect();
        match routes.shards.iter_mut().find(|shard| shard.master == master) {
            Some(shard) => slots.iter().for_each(|slot| shard.slots.insert(slot)),
            None => routes.shards.push(Shard { slots, master, replicas }),
        }
    }
    routes.shards.sort_by_key(|shard| shard.slots.iter().next());
    routes
}

fn parse_node(node: &Value, asked: &str) -> Option<String> {
    let Value::Array(fields) = node else { return None };
    let mut fields = fields.iter();
    let host: String = match fields.next()? {
        Value::Nil => asked.to_owned(),
        value => redis::from_redis_value_ref(value).ok()?,
    };
    let Value::Int(port) = fields.next()? else { return None };
    Some(format!("{}:{port}", if host.is_empty() { asked } else { &host }))
}

/// For each shard up to `count` hash tags whose slots are the shard's, all of different slots.
#[must_use]
pub fn hash_tags(routes: &Routes, count: usize) -> Vec<Vec<String>> {
    let mut tags: Vec<Vec<String>> = vec![Vec::new(); routes.shards.len()];
    let mut used = SlotSet::default();
    // Random slots are hit evenly: a hundred tries for each slot leave practically none out.
    for n in 0..u32::from(SLOT_COUNT) * 100 {
        let tag = format!("t{n}");
        let slot = kv_core::slot::key_slot(tag.as_bytes());
        let place = routes.shards.iter().zip(&mut tags).find(|(shard, _)| shard.slots.contains(slot));
        if let Some((_, of_shard)) = place.filter(|(_, of_shard)| of_shard.len() < count)
            && !used.contains(slot)
        {
            used.insert(slot);
            of_shard.push(tag);
        }
        if tags.iter().all(|of_shard| of_shard.len() >= count) {
            break;
        }
    }
    tags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: Value, port: i64) -> Value {
        Value::Array(vec![host, Value::Int(port), Value::BulkString(b"id".to_vec())])
    }

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn slots_of_one_master_are_one_shard_and_unknown_hosts_are_the_asked_one() {
        let reply = Value::Array(vec![
            Value::Array(vec![Value::Int(100), Value::Int(16383), node(text("b"), 2), node(Value::Nil, 3)]),
            Value::Array(vec![Value::Int(0), Value::Int(9), node(text(""), 1)]),
            Value::Array(vec![Value::Int(20), Value::Int(99), node(text("a"), 1)]),
            Value::Array(vec![Value::Int(10), Value::Int(19), node(text("a"), 1)]),
        ]);
        let routes = parse_slots(&reply, "a");
        assert!(routes.complete());
        assert_eq!(routes.shards.len(), 2);
        assert_eq!(routes.shards[0].master, "a:1");
        assert_eq!(routes.shards[1].replicas, ["a:3"]);
        assert_eq!(routes.shard_of(100).map(|shard| shard.master.as_str()), Some("b:2"));
    }

    #[test]
    fn hash_tags_lie_in_their_shard() {
        let half = |slots| Shard { slots, master: String::new(), replicas: Vec::new() };
        let routes = Routes { shards: vec![half((0..16000).collect()), half((16000..SLOT_COUNT).collect())] };
        let tags = hash_tags(&routes, 8);
        for (shard, tags) in routes.shards.iter().zip(&tags) {
            assert_eq!(tags.len(), 8);
            for tag in tags {
                assert!(shard.slots.contains(kv_core::slot::key_slot(format!("x:{{{tag}}}").as_bytes())));
            }
        }
    }
}
