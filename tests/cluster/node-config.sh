# shellcheck shell=bash
# Sourced by up and build-store: the configuration files of a full node. Paths
# under /run are the node's own (see node-init). Wants: cluster.sh's variables, BIN.

# containerd_config BIN: also what the stored images were unpacked with.
containerd_config() {
  cat <<Y
version = 3
root = "/run/node/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing", "io.containerd.nri.v1.nri",
  "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
address = "/run/containerd/containerd.sock"
[plugins.'io.containerd.cri.v1.images']
snapshotter = "overlayfs"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "localhost/pause:1"
[plugins.'io.containerd.cri.v1.runtime']
# A root without CAP_SYS_RESOURCE (a container, some sandboxes) may not lower it.
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["$1"]
conf_dir = "/run/node/cni"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = "$1/runc"
SystemdCgroup = false
Y
}

node_config() {
  containerd_config "$BIN" >"$STATE/containerd.toml"

  mkdir -p "$STATE/cni"
  cat >"$STATE/cni/10-bridge.conflist" <<Y
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "isDefaultGateway": true, "hairpinMode": true,
   "ipMasq": true, "ipMasqBackend": "nftables",
   "ipam": {"type": "host-local", "dataDir": "/run/cni-addresses", "ranges": [[{"subnet": "$POD_CIDR"}]]}},
  {"type": "portmap", "capabilities": {"portMappings": true}, "backend": "nftables", "snat": true}]}
Y

  # Images are never collected and pods never evicted for want of room: the images
  # cannot be pulled again, and the disk is the person's, not the node's.
  # Cgroup v1 still has to be asked for. Raising maxOpenFiles or lowering
  # oomScoreAdj would need CAP_SYS_RESOURCE.
  cat >"$STATE/kubelet.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $NODE_IP
tlsCertFile: $PKI/kubelet.crt
tlsPrivateKeyFile: $PKI/kubelet.key
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $PKI/ca.crt}}
authorization: {mode: Webhook}
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$NETNS
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
oomScoreAdj: 0
maxOpenFiles: 20000
clusterDomain: cluster.local
clusterDNS: [$NODE_IP]
resolvConf: $STATE/resolv.conf
podLogsDir: /run/node/pod-logs
volumePluginDir: /run/kubelet-plugins
syncFrequency: ${CLUSTER_KUBELET_SYNC:-2s}
crashLoopBackOff: {maxContainerRestartPeriod: ${CLUSTER_RESTART_BACKOFF:-5m}}
configMapAndSecretChangeDetectionStrategy: Watch
nodeStatusUpdateFrequency: 2s
serializeImagePulls: false
kubeAPIQPS: 500
kubeAPIBurst: 1000
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}
Y

  # The conntrack limits belong to the whole machine: zero leaves them alone.
  cat >"$STATE/kube-proxy.yaml" <<Y
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
bindAddress: $NODE_IP
hostnameOverride: $NODE
clusterCIDR: $POD_CIDR
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
nodePortAddresses: ["10.250.$SLOT.0/24"]
clientConnection: {kubeconfig: $PKI/proxy.kubeconfig}
oomScoreAdj: 0
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
nftables: {minSyncPeriod: 0s, syncPeriod: 30s}
Y

  # Names outside the cluster have no answer, but for one: the machine it runs on.
  cat >"$STATE/Corefile" <<Y
.:53 {
    bind $NODE_IP
    errors
    ready 127.0.0.1:8181
    hosts {
        $HOST_IP host.internal
        fallthrough
    }
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        kubeconfig $PKI/coredns.kubeconfig
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 1
    }
    cache 1
}
Y
  echo "nameserver $NODE_IP" >"$STATE/resolv.conf"
}
