# shellcheck shell=bash
# Sourced by node-init (full node) and up (control plane only): the command
# lines of etcd, the API server and the controller manager, which differ only in
# ports. Each function fills the array `command`.
# Wants: cluster.sh's variables, BIN, ETCD_DIR, ETCD_PORT.

# The data is thrown away with the cluster, so nothing waits for the disk.
etcd_command() {
  local client=http://127.0.0.1:$ETCD_PORT peer=http://127.0.0.1:$((ETCD_PORT + 1))
  command=("$BIN/etcd" --data-dir "$ETCD_DIR" --unsafe-no-fsync --log-level warn
    --listen-client-urls "$client" --advertise-client-urls "$client"
    --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "default=$peer")
}

apiserver_command() {
  command=("$BIN/kube-apiserver" --etcd-servers="http://127.0.0.1:$ETCD_PORT" --secure-port="$PORT"
    --service-cluster-ip-range="$SVC_CIDR" --allow-privileged=true
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction
    --client-ca-file="$PKI/ca.crt" --tls-cert-file="$PKI/apiserver.crt" --tls-private-key-file="$PKI/apiserver.key"
    --service-account-issuer=https://kubernetes.default.svc.cluster.local
    --service-account-key-file="$PKI/sa.pub" --service-account-signing-key-file="$PKI/sa.key"
    --requestheader-client-ca-file="$PKI/ca.crt" --requestheader-allowed-names=front-proxy
    --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group
    --requestheader-extra-headers-prefix=X-Remote-Extra-
    --proxy-client-cert-file="$PKI/front-proxy.crt" --proxy-client-key-file="$PKI/front-proxy.key")
  if [ "$FLAVOUR" = full ]; then
    command+=(--bind-address=0.0.0.0 --advertise-address="$NODE_IP" --enable-aggregator-routing=true
      --kubelet-client-certificate="$PKI/apiserver-kubelet.crt" --kubelet-client-key="$PKI/apiserver-kubelet.key"
      --kubelet-certificate-authority="$PKI/ca.crt" --kubelet-preferred-address-types=InternalIP)
  else
    # Loopback cannot be advertised; no pod will ever ask for the address (TEST-NET-1).
    command+=(--bind-address=127.0.0.1 --advertise-address=192.0.2.1 --endpoint-reconciler-type=none)
  fi
}

# The limits on queries are for big clusters; the usual ones cost seconds at the start.
controller_manager_command() {
  local kubeconfig=$PKI/controller-manager.kubeconfig
  command=("$BIN/kube-controller-manager" --kubeconfig="$kubeconfig"
    --authentication-kubeconfig="$kubeconfig" --authorization-kubeconfig="$kubeconfig"
    --bind-address=127.0.0.1 --leader-elect=false --use-service-account-credentials=true
    --kube-api-qps=1000 --kube-api-burst=2000
    --service-account-private-key-file="$PKI/sa.key" --root-ca-file="$PKI/ca.crt"
    --cluster-signing-cert-file="$PKI/ca.crt" --cluster-signing-key-file="$PKI/ca.key"
    --cluster-cidr="$POD_CIDR" --allocate-node-cidrs=false)
  [ "$FLAVOUR" = full ] || command+=(--secure-port=$((PORT + 3)))
}

# api PATH: asks the API server as admin. curl, since each start of kubectl
# costs a tenth of a second of the processor, which the cluster needs just now.
api() {
  curl -fsS --max-time 5 --noproxy '*' --cacert "$PKI/ca.crt" --cert "$PKI/admin.crt" --key "$PKI/admin.key" "https://$NODE_IP:$PORT$1"
}
