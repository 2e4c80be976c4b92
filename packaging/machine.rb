# What the Vagrantfiles share: boxes, sizes, the folder and how a machine is provisioned.
module Coracle
  # Both boxes exist for virtualbox and for libvirt. CORACLE_BOX replaces them by one that is at hand.
  BOXES = {
    "debian" => ENV["CORACLE_BOX"] || "debian/bookworm64",
    "ubuntu" => ENV["CORACLE_BOX"] || "cloud-image/ubuntu-24.04",
  }.freeze

  # Compiling is what needs the memory; the daemon itself is under 60 MiB.
  CPUS = Integer(ENV.fetch("CORACLE_CPUS", "2"))
  MEMORY = Integer(ENV.fetch("CORACLE_MEMORY", "4096"))

  # A variable of the environment; set to nothing is not set.
  def self.env(name)
    ENV[name] unless ENV[name].to_s.empty?
  end

  def self.common(config, root)
    # rsync needs neither guest additions nor an NFS server, and keeps the machine's target/ apart from the laptop's.
    config.vm.synced_folder ".", "/vagrant", disabled: true
    config.vm.synced_folder root, "/coracle", type: "rsync", rsync__exclude: ["target/", ".vagrant/"]

    config.vm.provider "virtualbox" do |provider|
      provider.cpus = CPUS
      provider.memory = MEMORY
    end
    config.vm.provider "libvirt" do |provider|
      provider.cpus = CPUS
      provider.memory = MEMORY
      # Without KVM (a machine inside a machine) software emulation still works, slowly, and a box may come as a kernel
      # and a disk without a boot loader.
      provider.driver = env("CORACLE_LIBVIRT_DRIVER") if env("CORACLE_LIBVIRT_DRIVER")
      provider.cpu_mode = "custom" if env("CORACLE_LIBVIRT_DRIVER") == "qemu"
      if env("CORACLE_KERNEL")
        provider.kernel = File.join(env("CORACLE_KERNEL"), "vmlinuz")
        provider.initrd = File.join(env("CORACLE_KERNEL"), "initrd.img")
        provider.cmd_line = "root=/dev/vda rw console=ttyS0 quiet"
      end
    end

    packages = Dir[File.join(root, "target/debian/*.deb")]
    if env("CORACLE_DEB")
      raise "no target/debian/*.deb: run `make deb` first" if packages.empty?

      config.vm.provision "file", source: packages.max_by { |f| File.mtime(f) }, destination: "/tmp/coracle.deb"
    end
    config.vm.provision "shell", path: File.join(root, "packaging/provision"),
                                 args: [env("CORACLE_DEB") ? "deb" : "rust"]
  end
end
