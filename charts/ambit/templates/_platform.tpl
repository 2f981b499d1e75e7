{{- /*
What of the nodes differs from kubeadm's, by platform, as JSON. From the platforms' documentation, none is tested: k3s since the releases of October 2024
(docs.k3s.io, "Multus and IPAM plugins"), MicroK8s ("Change CIDR": CNI configuration), GKE and OpenShift as Istio's ambient mode has them ("Platform-Specific
Prerequisites"), Bottlerocket ("SELinux": processes that use the runtime's socket). EKS and AKS are as kubeadm.
*/ -}}
{{- define "ambit.platform" -}}
{{- $profiles := dict
  "k3s" (dict
    "confDir" "/var/lib/rancher/k3s/agent/etc/cni/net.d"
    "binDir" "/var/lib/rancher/k3s/data/cni"
    "socket" "/run/k3s/containerd/containerd.sock")
  "microk8s" (dict
    "confDir" "/var/snap/microk8s/current/args/cni-network"
    "binDir" "/var/snap/microk8s/current/opt/cni/bin"
    "socket" "/var/snap/microk8s/common/run/containerd.sock")
  "gke" (dict "binDir" "/home/kubernetes/bin")
  "openshift" (dict
    "confDir" "/etc/cni/multus/net.d"
    "binDir" "/var/lib/cni/bin"
    "socket" "/run/crio/crio.sock"
    "seLinuxType" "spc_t")
  "bottlerocket" (dict "seLinuxType" "super_t")
-}}
{{- $kubeadm := dict
  "confDir" "/etc/cni/net.d"
  "binDir" "/opt/cni/bin"
  "socket" "/run/containerd/containerd.sock"
  "seLinuxType" ""
-}}
{{- $profile := merge dict (index $profiles .Values.platform | default dict) $kubeadm -}}
{{- dict
  "confDir" (.Values.cni.confDir | default $profile.confDir)
  "binDir" (.Values.cni.binDir | default $profile.binDir)
  "socket" (.Values.runtime.socket | default $profile.socket)
  "seLinuxType" (.Values.agent.seLinuxType | default $profile.seLinuxType)
  | toJson -}}
{{- end }}
