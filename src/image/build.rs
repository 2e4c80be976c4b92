//! Building an image from a recipe: one layer, the same bytes every time.
use super::import::{descriptor, host_arch};
use super::{FileEntry, ImageError, Images, Listing, Recipe, Reference, UserEntry};
use oci_spec::image::{ImageConfiguration, MediaType, RootFsBuilder};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

/// What `applets: [default]` stands for: what demos, probes and labs type.
const APPLETS: &str = "[ awk base64 basename cat chmod chown cp cut date dd df dirname du echo env expr false find free \
    getopt grep gunzip gzip head hexdump hostname httpd id ifconfig ip kill killall less ln ls md5sum mkdir mkfifo mknod \
    mktemp more mount mv nc netstat nproc nslookup od ping pgrep pidof pkill printenv printf ps pwd readlink realpath rm \
    rmdir route sed seq sh sha256sum sleep sort stat stty su sync tail tar tee telnet test time timeout top touch tr \
    traceroute true tty umount uname uniq uptime vi wc wget which whoami xargs yes";
/// Where a name is looked up when PATH is unset, as a shell would.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// A recipe's layer is deterministic, so time stands still in it.
const MTIME: u64 = 0;

/// One path of the layer under construction.
struct Item {
    mode: u32,
    uid: u64,
    gid: u64,
    content: Content,
}

enum Content {
    Dir,
    Link(String),
    Text(Vec<u8>),
    File(PathBuf),
}

/// The whole layer: sorted, so parents come before children and the order is always the same.
type Tree = BTreeMap<PathBuf, Item>;

impl Images {
    /// Builds the image a recipe describes; `dir` is the recipe's directory, `exe` what `self:` entries copy.
    /// The same inputs give the same digest.
    pub fn build(&self, dir: &Path, recipe: &Recipe, exe: &Path) -> Result<Listing, ImageError> {
        let reference = Reference::parse(&format!("{}:{}", recipe.name, recipe.tag))?;
        let name = reference.tagged().ok_or_else(|| recipe_error("needs a tag, not a digest"))?;
        let mut tree = Tree::new();
        for entry in &recipe.files {
            place(&mut tree, entry, dir, exe)?;
        }
        if !recipe.users.is_empty() {
            let (passwd, group) = users(&recipe.users);
            insert(&mut tree, "/etc/passwd", file(0o644, Content::Text(passwd.into())))?;
            insert(&mut tree, "/etc/group", file(0o644, Content::Text(group.into())))?;
        }
        let base = match recipe.base.as_str() {
            "scratch" => None,
            other => Some(self.resolve(other)?),
        };
        let _lock = self.lock()?;
        let tmp = self.temporary();
        let written = write_tar(&tree, &tmp);
        let stored = written.and_then(|()| {
            let mut tar = fs::File::open(&tmp).map_err(ImageError::io("opening", &tmp))?;
            self.put(&mut tar, None)
        });
        fs::remove_file(&tmp).map_err(ImageError::io("removing", &tmp))?;
        let (layer, size) = stored?;
        let (mut layers, config) = match base {
            Some(base) => (self.manifest(&base.digest)?.layers().clone(), Some(base.config)),
            None => (Vec::new(), None),
        };
        layers.push(descriptor(MediaType::ImageLayer, &layer, size)?);
        let config = configure(recipe, config, &layer)?;
        let bytes = canonical(&config)?;
        let (digest, size) = self.put(&mut &bytes[..], None)?;
        let config = descriptor(MediaType::ImageConfig, &digest, size)?;
        let manifest = self.put_manifest(config, layers)?;
        self.commit(&manifest, &[name])
    }
}

fn recipe_error(message: impl Into<String>) -> ImageError {
    ImageError::Recipe(message.into())
}

fn file(mode: u32, content: Content) -> Item {
    Item { mode, uid: 0, gid: 0, content }
}

/// Adds what one entry of `files` says.
fn place(tree: &mut Tree, entry: &FileEntry, dir: &Path, exe: &Path) -> Result<(), ImageError> {
    let to = |default: Option<&String>| {
        let to = entry.to.as_ref().or(default).cloned();
        to.ok_or_else(|| recipe_error(format!("`to` is missing in {entry:?}")))
    };
    let sources = [&entry.this, &entry.host, &entry.copy, &entry.dir, &entry.text, &entry.link];
    if sources.iter().filter(|s| s.is_some()).count() != 1 {
        return Err(recipe_error(format!("exactly one of self, host, copy, dir, text, link is needed in {entry:?}")));
    }
    let (path, item) = if let Some(path) = &entry.this {
        (path.clone(), file(0o755, Content::File(exe.to_path_buf())))
    } else if let Some(path) = &entry.host {
        (to(Some(path))?, file(0o755, Content::File(on_host(path)?)))
    } else if let Some(path) = &entry.dir {
        (path.clone(), file(0o755, Content::Dir))
    } else if let Some(text) = &entry.text {
        (to(None)?, file(0o644, Content::Text(text.clone().into_bytes())))
    } else if let Some(target) = &entry.link {
        (to(None)?, file(0o777, Content::Link(target.clone())))
    } else {
        let from = entry.copy.clone().unwrap_or_default();
        return copy(tree, &dir.join(from), Path::new(&to(None)?), entry);
    };
    for applet in applets(&entry.applets) {
        let name = Path::new(&path).file_name().unwrap_or_default().to_string_lossy();
        let link = file(0o777, Content::Link(name.into_owned()));
        insert(tree, Path::new(&path).with_file_name(applet), link)?;
    }
    insert(tree, path, with_owner(item, entry)?)
}

fn applets(names: &[String]) -> impl Iterator<Item = &str> {
    names.iter().flat_map(|name| match name.as_str() {
        "default" => APPLETS.split_whitespace().collect::<Vec<_>>(),
        one => vec![one],
    })
}

/// Copies a file, a symlink or a directory with all below it.
fn copy(tree: &mut Tree, from: &Path, to: &Path, entry: &FileEntry) -> Result<(), ImageError> {
    let meta = from.symlink_metadata().map_err(ImageError::io("reading", from))?;
    let mode = meta.permissions().mode() & 0o7777;
    if meta.is_symlink() {
        let target = fs::read_link(from).map_err(ImageError::io("reading", from))?;
        let link = Content::Link(target.to_string_lossy().into_owned());
        return insert(tree, to, with_owner(file(0o777, link), entry)?);
    }
    if !meta.is_dir() {
        let item = file(mode, Content::File(from.to_path_buf()));
        return insert(tree, to, with_owner(item, entry)?);
    }
    // The mode of an entry is meant for files; directories keep what they have.
    let plain = FileEntry { mode: None, ..entry.clone() };
    insert(tree, to, with_owner(file(mode, Content::Dir), &plain)?)?;
    for child in fs::read_dir(from).map_err(ImageError::io("reading", from))? {
        let child = child.map_err(ImageError::io("reading", from))?;
        copy(tree, &child.path(), &to.join(child.file_name()), entry)?;
    }
    Ok(())
}

fn with_owner(mut item: Item, entry: &FileEntry) -> Result<Item, ImageError> {
    if let Some(mode) = &entry.mode {
        let bad = |_| recipe_error(format!("{mode:?} is not an octal mode"));
        item.mode = u32::from_str_radix(mode, 8).map_err(bad)? & 0o7777;
    }
    if let Some(owner) = &entry.owner {
        let bad = |_| recipe_error(format!("{owner:?} is not uid or uid:gid"));
        let (uid, gid) = owner.split_once(':').unwrap_or((owner, owner));
        (item.uid, item.gid) = (uid.parse().map_err(bad)?, gid.parse().map_err(bad)?);
    }
    Ok(item)
}

/// Puts an item at a path of the image, making parents.
fn insert(tree: &mut Tree, path: impl AsRef<Path>, item: Item) -> Result<(), ImageError> {
    let path = path.as_ref();
    let mut key = PathBuf::new();
    for part in path.components() {
        match part {
            Component::RootDir => {}
            Component::Normal(name) => {
                if !key.as_os_str().is_empty() {
                    tree.entry(key.clone()).or_insert(file(0o755, Content::Dir));
                }
                key.push(name);
            }
            _ => return Err(recipe_error(format!("{path:?} is not a plain absolute path"))),
        }
    }
    if !path.is_absolute() || key.as_os_str().is_empty() {
        return Err(recipe_error(format!("{path:?} is not an absolute path")));
    }
    tree.insert(key, item);
    Ok(())
}

/// A file of the host: the path itself, else its last component on PATH.
fn on_host(name: &str) -> Result<PathBuf, ImageError> {
    let path = Path::new(name);
    if path.is_absolute() && path.is_file() {
        return Ok(path.to_path_buf());
    }
    let base = path.file_name().ok_or_else(|| recipe_error(format!("{name:?} names no file")))?;
    let dirs = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    std::env::split_paths(&dirs)
        .chain(std::env::split_paths(DEFAULT_PATH))
        .map(|dir| dir.join(base))
        .find(|path| path.is_file())
        .ok_or_else(|| recipe_error(format!("{name:?} is not on this host (looked on PATH too)")))
}

/// The texts of /etc/passwd and /etc/group.
fn users(users: &[UserEntry]) -> (String, String) {
    let mut passwd = String::from("root:x:0:0:root:/root:/bin/sh\n");
    let mut groups: BTreeMap<&str, (u32, Vec<&str>)> = BTreeMap::from([("root", (0, Vec::new()))]);
    for user in users {
        let gid = user.gid.unwrap_or(user.uid);
        let home = user.home.as_deref().unwrap_or("/");
        let shell = user.shell.as_deref().unwrap_or("/bin/sh");
        passwd.push_str(&format!("{0}:x:{1}:{gid}:{0}:{home}:{shell}\n", user.name, user.uid));
        groups.entry(&user.name).or_insert((gid, Vec::new()));
        for (group, gid) in &user.groups {
            groups.entry(group).or_insert((*gid, Vec::new())).1.push(&user.name);
        }
    }
    let line = |(name, (gid, members)): (&&str, &(u32, Vec<&str>))| format!("{name}:x:{gid}:{}\n", members.join(","));
    (passwd, groups.iter().map(line).collect())
}

fn write_tar(tree: &Tree, to: &Path) -> Result<(), ImageError> {
    let out = fs::File::create(to).map_err(ImageError::io("creating", to))?;
    let mut out = tar::Builder::new(io::BufWriter::with_capacity(1 << 16, out));
    for (path, item) in tree {
        append(&mut out, path, item).map_err(ImageError::io("adding", path))?;
    }
    let finished = out.into_inner().and_then(|mut buffer| buffer.flush());
    finished.map_err(ImageError::io("writing", to))
}

fn append(out: &mut tar::Builder<impl Write>, path: &Path, item: &Item) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(item.mode);
    header.set_uid(item.uid);
    header.set_gid(item.gid);
    header.set_mtime(MTIME);
    header.set_size(0);
    match &item.content {
        Content::Dir => {
            header.set_entry_type(tar::EntryType::Directory);
            out.append_data(&mut header, path, io::empty())
        }
        Content::Link(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            out.append_link(&mut header, path, target)
        }
        Content::Text(text) => {
            header.set_size(text.len() as u64);
            out.append_data(&mut header, path, &text[..])
        }
        Content::File(from) => {
            let file = fs::File::open(from)?;
            let size = file.metadata()?.len();
            header.set_size(size);
            // A file that grows meanwhile must not spoil the archive.
            out.append_data(&mut header, path, file.take(size))
        }
    }
}

/// The image configuration: the base's, with what the recipe says on top.
fn configure(recipe: &Recipe, base: Option<ImageConfiguration>, layer: &str) -> Result<ImageConfiguration, ImageError> {
    let mut image = base.unwrap_or_default();
    let mut config = image.config().clone().unwrap_or_default();
    let mut env = config.env().clone().unwrap_or_default();
    for (key, value) in &recipe.env {
        env.retain(|line| line.split('=').next() != Some(key));
        env.push(format!("{key}={value}"));
    }
    if !env.iter().any(|line| line.starts_with("PATH=")) {
        env.insert(0, format!("PATH={DEFAULT_PATH}"));
    }
    config.set_env(Some(env));
    if let Some(entrypoint) = &recipe.entrypoint {
        config.set_entrypoint(Some(entrypoint.clone()));
        // As in a Dockerfile: a new entrypoint makes the base's arguments meaningless.
        config.set_cmd(None);
    }
    config.set_cmd(recipe.cmd.clone().or_else(|| config.cmd().clone()));
    config.set_working_dir(recipe.workdir.clone().or_else(|| config.working_dir().clone()));
    config.set_user(recipe.user.clone().or_else(|| config.user().clone()));
    config.set_stop_signal(recipe.stop_signal.clone().or_else(|| config.stop_signal().clone()));
    let more = |old: &Option<Vec<String>>, new: &[String]| {
        let mut all = old.clone().unwrap_or_default();
        all.extend(new.iter().cloned());
        all.sort();
        all.dedup();
        Some(all).filter(|all| !all.is_empty())
    };
    config.set_exposed_ports(more(config.exposed_ports(), &recipe.ports));
    config.set_volumes(more(config.volumes(), &recipe.volumes));
    let mut labels = config.labels().clone().unwrap_or_default();
    labels.extend(recipe.labels.clone());
    config.set_labels(Some(labels).filter(|labels| !labels.is_empty()));
    image.set_config(Some(config));
    image.set_os("linux".into());
    image.set_architecture(host_arch().into());
    let mut ids = image.rootfs().diff_ids().clone();
    ids.push(layer.to_string());
    let rootfs = RootFsBuilder::default().typ("layers").diff_ids(ids).build();
    image.set_rootfs(rootfs.map_err(|e| recipe_error(e.to_string()))?);
    Ok(image)
}

/// JSON with sorted keys: the configuration's own maps have no order, its digest must.
fn canonical(config: &ImageConfiguration) -> Result<Vec<u8>, ImageError> {
    let text = |e: serde_json::Error| recipe_error(e.to_string());
    let mut value = serde_json::to_value(config).map_err(text)?;
    value.sort_all_objects();
    serde_json::to_vec(&value).map_err(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Images) {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(&dir.path().join("images")).unwrap();
        (dir, images)
    }

    fn recipe(value: serde_json::Value) -> Recipe {
        serde_json::from_value(value).unwrap()
    }

    fn demo() -> Recipe {
        recipe(serde_json::json!({
            "name": "demo", "tag": "1",
            "files": [
                {"self": "/coracle"}, {"dir": "/tmp", "mode": "1777"},
                {"text": "hi", "to": "/etc/motd", "owner": "5:6"},
                {"host": "/coracle-not-there/sh", "to": "/bin/box", "applets": ["ls", "cat"]},
            ],
            "users": [{"name": "app", "uid": 1000, "groups": {"video": 44}}],
            "env": {"A": "1"}, "cmd": ["serve"], "user": "app",
            "labels": {"a": "1", "b": "2", "c": "3", "d": "4"}, "ports": ["80/tcp", "443/tcp"],
        }))
    }

    #[test]
    fn a_recipe_becomes_the_same_image_every_time() {
        let (dir, images) = store();
        let exe = dir.path().join("exe");
        fs::write(&exe, "#!").unwrap();
        let first = images.build(dir.path(), &demo(), &exe).unwrap();
        assert_eq!(first, images.build(dir.path(), &demo(), &exe).unwrap());
        let image = images.resolve("demo:1").unwrap();
        assert_eq!(image.reference, "docker.io/library/demo:1");
        assert_eq!(image.id, format!("docker.io/library/demo@{}", first.digest));
        let top = &image.layers[0];
        let read = |p: &str| fs::read_to_string(top.join(p)).unwrap();
        assert_eq!(read("coracle"), "#!");
        assert_eq!(read("etc/group"), "app:x:1000:\nroot:x:0:\nvideo:x:44:app\n");
        assert_eq!(fs::read_link(top.join("bin/ls")).unwrap(), Path::new("box"));
        assert_eq!(top.join("tmp").metadata().unwrap().permissions().mode() & 0o7777, 0o1777);
        let config = image.config.config().clone().unwrap();
        assert_eq!(config.cmd().clone().unwrap(), ["serve"]);
    }

    #[test]
    fn a_base_gives_its_layers_and_configuration() {
        let (dir, images) = store();
        let exe = dir.path().join("exe");
        fs::write(&exe, "#!").unwrap();
        images.build(dir.path(), &demo(), &exe).unwrap();
        let next = recipe(serde_json::json!({
            "name": "next", "base": "demo:1", "entrypoint": ["/coracle"], "env": {"B": "2"},
        }));
        images.build(dir.path(), &next, &exe).unwrap();
        let image = images.resolve("next").unwrap();
        assert_eq!(image.layers.len(), 2);
        let config = image.config.config().clone().unwrap();
        assert_eq!(config.env().clone().unwrap()[1..], ["A=1", "B=2"]);
        assert_eq!((config.cmd(), config.user()), (&None, &Some("app".to_string())));
    }

    #[test]
    fn removing_keeps_what_others_use_or_hold() {
        let (dir, images) = store();
        let exe = dir.path().join("exe");
        fs::write(&exe, "#!").unwrap();
        let listing = images.build(dir.path(), &demo(), &exe).unwrap();
        images.hold("some-pod", &listing.digest).unwrap();
        assert_eq!(images.remove("demo:1").unwrap(), ["docker.io/library/demo:1"]);
        assert!(matches!(images.resolve("demo:1"), Err(ImageError::NotFound(_))));
        assert_eq!(images.list().unwrap()[0].references, Vec::<String>::new());
        assert!(images.resolve(&listing.digest).unwrap().layers[0].is_dir());
        images.release("some-pod").unwrap();
        images.build(dir.path(), &recipe(serde_json::json!({"name": "x"})), &exe).unwrap();
        images.remove("x").unwrap();
        for dir in ["blobs/sha256", "layers", "tmp"] {
            let left = fs::read_dir(images.blob("").parent().unwrap().join("../..").join(dir));
            assert_eq!(left.unwrap().count(), 0, "{dir}");
        }
    }

    #[test]
    fn layouts_and_saved_archives_are_imported() {
        let (dir, images) = store();
        let exe = dir.path().join("exe");
        fs::write(&exe, "#!").unwrap();
        let built = images.build(dir.path(), &demo(), &exe).unwrap();
        let manifest = images.manifest(&built.digest).unwrap();
        let config = manifest.config().digest().to_string();
        let layer = manifest.layers()[0].digest().to_string();

        let layout = dir.path().join("layout");
        fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        for digest in [&built.digest, &config, &layer] {
            let name = digest.replacen(':', "/", 1);
            fs::copy(images.blob(digest), layout.join("blobs").join(name)).unwrap();
        }
        let size = images.blob(&built.digest).metadata().unwrap().len();
        let entry = |arch: &str, digest: &str| {
            serde_json::json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size,
                "platform": {"os": "linux", "architecture": arch},
                "annotations": {"org.opencontainers.image.ref.name": "demo:oci"},
            })
        };
        let other = format!("sha256:{}", "0".repeat(64));
        let index = serde_json::json!({"schemaVersion": 2,
            "manifests": [entry("s390x", &other), entry(host_arch(), &built.digest)]});
        fs::write(layout.join("index.json"), index.to_string()).unwrap();
        let (_other, second) = store();
        assert_eq!(second.import(&layout, None).unwrap()[0].references, ["docker.io/library/demo:oci"]);

        let mut saved = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        saved.append_path_with_name(images.blob(&config), "config.json").unwrap();
        saved.append_path_with_name(images.blob(&layer), "l/layer.tar").unwrap();
        let text =
            serde_json::json!([{"Config": "config.json", "RepoTags": ["demo:saved"], "Layers": ["l/layer.tar"]}]);
        let text = text.to_string();
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        saved.append_data(&mut header, "manifest.json", text.as_bytes()).unwrap();
        let archive = dir.path().join("saved.tar.gz");
        fs::write(&archive, saved.into_inner().unwrap().finish().unwrap()).unwrap();
        let rows = second.import(&archive, None).unwrap();
        assert_eq!(rows[0].digest, built.digest);
        assert_eq!(rows[0].references, ["docker.io/library/demo:oci", "docker.io/library/demo:saved"]);
        assert!(
            second.import(&archive, Some("renamed:1")).unwrap()[0]
                .references
                .contains(&"docker.io/library/renamed:1".into())
        );
    }
}
