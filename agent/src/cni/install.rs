//! Installs the plugin on the node, repairs the installation, and removes it.

use super::conflist::{
    ConfigError, PLUGIN, PluginConfig, is_conflist, list_name, with_plugin, without_plugin,
};
use crate::files::{write_atomically, write_atomically_like};
use crate::metrics::Metrics;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the directory is checked without a notification.
const LOOK: Duration = Duration::from_secs(10);
/// The extensions of files that libcni reads as configuration.
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];

/// Why the plugin could not be installed or removed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file or directory cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A configuration cannot be edited.
    #[error("CNI configuration {path}: {source}")]
    Config {
        /// Which.
        path: String,
        /// Why.
        source: ConfigError,
    },
    /// The node's network is not configured yet.
    #[error("no CNI configuration in {0} yet: the cluster's network plugin has to be installed first")]
    NoConfig(String),
}

/// The places of an installation.
#[derive(Debug, Clone)]
pub struct Installation {
    /// Directory of plugin binaries.
    pub binaries: PathBuf,
    /// Directory of CNI configurations.
    pub configs: PathBuf,
    /// Directory for copies of the original configuration.
    pub backup: PathBuf,
    /// Namespaces whose pods start without the agent.
    pub exempt_namespaces: Vec<String>,
    /// The agent's CNI socket, as seen on the host.
    pub socket: PathBuf,
}

/// A configuration before the plugin was added.
#[derive(Debug, Serialize, Deserialize)]
struct Backup {
    name: String,
    text: String,
}

impl Installation {
    /// Copies this program to the directory of plugins.
    fn install_binary(&self) -> Result<(), InstallError> {
        let program = read(Path::new("/proc/self/exe"))?;
        let path = self.binaries.join(PLUGIN);
        write_atomically(&path, &program, 0o755).map_err(in_file(&path))
    }

    /// Makes the plugin the last one in the configuration that the runtime uses. Returns whether a file was written.
    fn configure(&self) -> Result<bool, InstallError> {
        let name = self
            .first_config()?
            .ok_or_else(|| InstallError::NoConfig(self.configs.display().to_string()))?;
        let path = self.configs.join(&name);
        let text = String::from_utf8_lossy(&read(&path)?).into_owned();
        let plugin = PluginConfig {
            exempt_namespaces: self.exempt_namespaces.clone(),
            socket: self.socket.clone(),
        };
        let Some(edited) = with_plugin(&text, &name, &plugin).map_err(in_config(&path))? else {
            return Ok(false);
        };
        // Only a text without the plugin is an original.
        if without_plugin(&text).is_ok_and(|without| without.is_none()) || !is_conflist(&name) {
            let backup = Backup {
                name: name.clone(),
                text,
            };
            let json = serde_json::to_vec(&backup).map_err(|e| in_config(&path)(e.into()))?;
            write_atomically(&self.backup, &json, 0o600).map_err(in_file(&self.backup))?;
        }
        let before = std::fs::metadata(&path).map_err(in_file(&path))?;
        let list = self.configs.join(list_name(&name));
        write_atomically_like(&list, edited.as_bytes(), &before).map_err(in_file(&list))?;
        if list != path {
            remove(&path)?;
        }
        Ok(true)
    }

    /// Removes the plugin from every configuration, and its binary.
    fn uninstall(&self) -> Result<(), InstallError> {
        let backup: Option<Backup> = std::fs::read(&self.backup)
            .ok()
            .and_then(|b| serde_json::from_slice(&b).ok());
        for name in self.config_names()? {
            let path = self.configs.join(&name);
            let text = String::from_utf8_lossy(&read(&path)?).into_owned();
            // A file that is not JSON is not ours.
            let Ok(Some((without, original))) = without_plugin(&text) else {
                continue;
            };
            let restored = original.unwrap_or(name);
            let target = self.configs.join(&restored);
            // Restored byte for byte, unless another program has changed it since.
            let content = backup
                .as_ref()
                .filter(|backup| backup.name == restored && same_json(&backup.text, &without))
                .map_or(without, |backup| backup.text.clone());
            let before = std::fs::metadata(&path).map_err(in_file(&path))?;
            write_atomically_like(&target, content.as_bytes(), &before).map_err(in_file(&target))?;
            if target != path {
                remove(&path)?;
            }
        }
        remove(&self.binaries.join(PLUGIN))?;
        remove(&self.backup)
    }

    /// The configuration that the runtime uses: the first by name.
    fn first_config(&self) -> Result<Option<String>, InstallError> {
        Ok(self.config_names()?.into_iter().next())
    }

    fn config_names(&self) -> Result<Vec<String>, InstallError> {
        let entries = std::fs::read_dir(&self.configs).map_err(in_file(&self.configs))?;
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .filter(|name| {
                Path::new(name)
                    .extension()
                    .is_some_and(|e| EXTENSIONS.iter().any(|known| e == *known))
            })
            .collect();
        names.sort();
        Ok(names)
    }
}

/// Keeps the plugin installed.
#[derive(Debug)]
pub struct Installer {
    installation: Installation,
    metrics: Metrics,
    installed: watch::Sender<bool>,
}

impl Installer {
    /// An installer; nothing is installed yet.
    pub fn new(installation: Installation, metrics: Metrics) -> Self {
        Self {
            installation,
            metrics,
            installed: watch::Sender::new(false),
        }
    }

    /// Whether the plugin is in place.
    pub fn installed(&self) -> watch::Receiver<bool> {
        self.installed.subscribe()
    }

    /// Installs the plugin, and repairs the configuration whenever another program changes it, until `stop`. The plugin
    /// then stays in place: a node whose agent is being replaced must not start pods outside the mesh.
    pub async fn keep(&self, stop: CancellationToken) {
        let mut has_binary = false;
        let mut complaint = String::new();
        let mut watcher = self.watch();
        loop {
            match self.look(&mut has_binary).await {
                Ok(changed) => {
                    self.note(changed);
                    complaint.clear();
                }
                Err(e) => {
                    self.installed.send_replace(false);
                    if complaint != e.to_string() {
                        complaint = e.to_string();
                        tracing::warn!(error = complaint, "the CNI plugin is not installed; trying again");
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = changed(&mut watcher) => {}
                () = tokio::time::sleep(LOOK) => if watcher.is_none() { watcher = self.watch() },
            }
        }
    }

    /// Removes the plugin and restores the configuration.
    ///
    /// # Errors
    /// When a file cannot be written. Part of the removal may be done; it can be retried.
    pub async fn uninstall(&self) -> Result<(), InstallError> {
        self.installed.send_replace(false);
        let installation = self.installation.clone();
        blocking(move || installation.uninstall()).await
    }

    async fn look(&self, has_binary: &mut bool) -> Result<bool, InstallError> {
        if !*has_binary || !self.installation.binaries.join(PLUGIN).exists() {
            let installation = self.installation.clone();
            blocking(move || installation.install_binary()).await?;
            *has_binary = true;
        }
        let installation = self.installation.clone();
        blocking(move || installation.configure()).await
    }

    fn note(&self, changed: bool) {
        let before = self.installed.send_replace(true);
        if changed && before {
            self.metrics.cni_repaired();
            tracing::warn!("the plugin was missing in the CNI configuration; repaired");
        } else if !before {
            tracing::info!(configs = %self.installation.configs.display(), "the CNI plugin is installed");
        }
    }

    fn watch(&self) -> Option<AsyncFd<OwnedFd>> {
        let start = || -> io::Result<AsyncFd<OwnedFd>> {
            let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            let events =
                WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::DELETE;
            inotify::add_watch(&fd, &self.installation.configs, events)?;
            // SAFETY: an OwnedFd keeps its one descriptor open for as long as it lives, and the AsyncFd owns it.
            #[allow(unsafe_code)]
            let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
            Ok(watched?)
        };
        start()
            .inspect_err(|e| {
                tracing::warn!(error = %e, directory = %self.installation.configs.display(),
                    "the CNI configuration cannot be watched; it is checked every {}s", LOOK.as_secs());
            })
            .ok()
    }
}

/// Ends at any event in the directory; the content of events does not matter.
async fn changed(watcher: &mut Option<AsyncFd<OwnedFd>>) {
    let Some(watcher) = watcher else {
        return std::future::pending().await;
    };
    let mut buffer = [0; 4096];
    loop {
        let Ok(mut ready) = watcher.readable().await else {
            return std::future::pending().await;
        };
        if ready
            .try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut buffer)?))
            .is_ok()
        {
            return;
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, InstallError> + Send + 'static,
) -> Result<T, InstallError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| InstallError::File {
            path: "installer".to_owned(),
            source: io::Error::other(e),
        })?
}

fn read(path: &Path) -> Result<Vec<u8>, InstallError> {
    std::fs::read(path).map_err(in_file(path))
}

fn remove(path: &Path) -> Result<(), InstallError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(in_file(path)(e)),
        _ => Ok(()),
    }
}

fn same_json(one: &str, other: &str) -> bool {
    let parse = |text| serde_json::from_str::<serde_json::Value>(text).ok();
    parse(one).is_some_and(|value| Some(value) == parse(other))
}

fn in_file(path: &Path) -> impl Fn(io::Error) -> InstallError {
    let path = path.display().to_string();
    move |source| InstallError::File {
        path: path.clone(),
        source,
    }
}

fn in_config(path: &Path) -> impl Fn(ConfigError) -> InstallError {
    let path = path.display().to_string();
    move |source| InstallError::Config {
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests;
