//! Telling true claims from false ones.
//!
//! 1. who is held back is told so, and nothing is looked at;
//! 2. a password that was right less than five minutes ago for the same entry of the file is right;
//! 3. otherwise one hash is worked out, on a blocking thread, few at a time; whoever waits is asked about 1 again after;
//! 4. only then disabled users, and those who come from elsewhere than their networks, are told that it was wrong.

use std::net::IpAddr;
use std::sync::Arc;

use super::Users;
use super::file::{CertificateName, User};
use super::metrics::Result as Told;
use super::password::Hash;
use super::prep::prepare;
use super::sasl::{Certificate, Claim, Mechanism};

/// Why somebody does not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The claim is false, for a reason that is not told.
    Wrong,
    /// Too many have failed before.
    Held,
    /// It cannot be told now.
    Busy,
}

/// The same with the reason, which is for counters and the log.
struct No {
    denial: Denial,
    told: Told,
}

impl No {
    const fn wrong(told: Told) -> Self {
        Self { denial: Denial::Wrong, told }
    }
}

impl Users {
    /// Tells whether a claim is true: the user then.
    pub async fn verify(&self, mechanism: Mechanism, claim: Claim, client: IpAddr) -> Result<Arc<User>, Denial> {
        let name = self.name_of(&claim);
        let result = self.check(&name, claim, client).await;
        let told = result.as_ref().map_or_else(|no| no.told, |_| Told::Accepted);
        self.inner.metrics.attempt(mechanism, told);
        match result {
            Ok(user) => {
                self.inner.backoff.succeeded(&name, client);
                Ok(user)
            }
            Err(No { denial, told }) => {
                if denial == Denial::Wrong {
                    self.inner.backoff.failed(&name, client, self.now());
                }
                // A name that nobody has may be a password in the wrong place.
                let user = if self.inner.file.load().get(&name).is_some() { name.as_str() } else { "(unknown)" };
                let (mechanism, reason) = (mechanism.as_str(), told.as_str());
                tracing::info!(user, %client, mechanism, reason, "an authentication failed");
                Err(denial)
            }
        }
    }

    /// Whose failures these would be; prepared. A certificate's are of the user that it stands for.
    fn name_of(&self, claim: &Claim) -> String {
        match claim {
            Claim::Password { name, .. } => prepare(name).unwrap_or_default(),
            Claim::Proof { name, .. } => name.clone(),
            Claim::Certificate { certificate, name } => {
                let user = certificate.as_ref().and_then(|certificate| self.of_certificate(certificate));
                let asked = name.as_deref().and_then(prepare).unwrap_or_default();
                user.map_or(asked, |user| user.name.to_string())
            }
        }
    }

    fn of_certificate(&self, certificate: &Certificate) -> Option<Arc<User>> {
        let table = self.inner.file.load();
        let names = certificate.names.iter().map(|name| CertificateName::Name(name.to_ascii_lowercase().into()));
        let mut known = std::iter::once(CertificateName::Sha256(certificate.sha256)).chain(names);
        known.find_map(|name| table.of_certificate(&name).cloned())
    }

    async fn check(&self, name: &str, claim: Claim, client: IpAddr) -> Result<Arc<User>, No> {
        self.may_try(name, client)?;
        let user = match claim {
            Claim::Password { password, is_own, .. } => {
                let password = prepare(&password).unwrap_or_default();
                let user = self.by_password(name, password, client).await?;
                if is_own { user } else { return Err(No::wrong(Told::Wrong)) }
            }
            Claim::Proof { keys, is_right, .. } => {
                // The file may have changed since the keys were taken from it.
                let user = self.inner.file.load().get(name).cloned();
                let user = user.filter(|user| user.scram.as_ref() == Some(&keys) && is_right);
                user.ok_or(No::wrong(Told::Wrong))?
            }
            Claim::Certificate { certificate, name: asked } => {
                let user = certificate.and_then(|certificate| self.of_certificate(&certificate));
                let is_own =
                    |user: &Arc<User>| asked.is_none_or(|asked| prepare(&asked).as_deref() == Some(&*user.name));
                user.filter(is_own).ok_or(No::wrong(Told::Wrong))?
            }
        };
        match bar(&user, client) {
            Some(told) => Err(No::wrong(told)),
            None => Ok(user),
        }
    }

    fn may_try(&self, name: &str, client: IpAddr) -> Result<(), No> {
        match self.inner.backoff.held_until(name, client, self.now()) {
            Some(_) => Err(No { denial: Denial::Held, told: Told::Held }),
            None => Ok(()),
        }
    }

    /// The user with this password; whatever else is wrong with them is not looked at.
    async fn by_password(&self, name: &str, password: String, client: IpAddr) -> Result<Arc<User>, No> {
        let (user, cost) = {
            let table = self.inner.file.load();
            (table.get(name).cloned(), table.cost)
        };
        let now = self.now();
        // Who may not come in whatever the password costs a hash each time: time would tell that it is right.
        let may_be_known = |user: &&Arc<User>| bar(user, client).is_none();
        let known = user.as_ref().filter(may_be_known).filter(|user| self.inner.cache.has(user, &password, now));
        if let Some(user) = known {
            self.inner.metrics.cache_hits.increment(1);
            return Ok(Arc::clone(user));
        }
        let busy = No { denial: Denial::Busy, told: Told::Busy };
        let Ok(_waiting) = Arc::clone(&self.inner.waiting).try_acquire_owned() else { return Err(busy) };
        let Ok(permit) = Arc::clone(&self.inner.hashes).acquire_owned().await else { return Err(busy) };
        // Those before in the line may have failed.
        self.may_try(name, client)?;
        let hash = user.as_ref().and_then(|user| user.password.clone()).unwrap_or_else(|| Hash::of_nobody(cost));
        self.inner.metrics.hash();
        let work = move || {
            let is_right = hash.matches(password.as_bytes());
            drop(permit);
            (is_right, password)
        };
        let Ok((is_right, password)) = tokio::task::spawn_blocking(work).await else { return Err(busy) };
        let told = if user.is_some() { Told::Wrong } else { Told::Unknown };
        let user = user.filter(|user| is_right && user.password.is_some()).ok_or(No::wrong(told))?;
        if bar(&user, client).is_none() {
            self.inner.cache.put(&user, &password, now);
        }
        Ok(user)
    }
}

/// Why a user may not come in from there, whatever they know.
fn bar(user: &User, client: IpAddr) -> Option<Told> {
    let is_elsewhere = !user.networks.is_empty() && !user.networks.iter().any(|network| network.contains(client));
    match user.is_disabled {
        true => Some(Told::Disabled),
        false => is_elsewhere.then_some(Told::Network),
    }
}
