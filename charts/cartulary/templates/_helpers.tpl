{{/* The name everything starts with. */}}
{{- define "cartulary.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What selects the operator's pods. */}}
{{- define "cartulary.selector" -}}
app.kubernetes.io/name: cartulary
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "cartulary.labels" -}}
{{ include "cartulary.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "cartulary.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}

{{/* The cluster-wide name of the webhook configurations; two releases must not share it. */}}
{{- define "cartulary.webhooks" -}}
{{- printf "%s-%s" (include "cartulary.fullname" .) .Release.Namespace -}}
{{- end -}}

{{/* What the operator may do in the namespaces it looks after. */}}
{{- define "cartulary.rules" -}}
- apiGroups: [cartulary.dev]
  resources: [xmppclusters, archiveendpoints, complianceservers, profiles]
  verbs: [get, list, watch]
- apiGroups: [cartulary.dev]
  resources: [xmppclusters/status, archiveendpoints/status, complianceservers/status, profiles/status]
  verbs: [patch]
# The system default profile is made, and taken away where nothing of ours is left.
- apiGroups: [cartulary.dev]
  resources: [profiles]
  verbs: [create]
- apiGroups: [cartulary.dev]
  resources: [profiles]
  resourceNames: [system-default-compliance-profile]
  verbs: [patch, delete]
# Whether a namespace is being deleted: then nothing in it is in use any more.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
# Labelled pods are looked at, never changed.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
# Names of all Secrets are watched, the content is read only of those that are referred to. What is written is the sidecars'
# configuration; Kubernetes cannot limit creating to names.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch]
# Claims are made and never changed or deleted.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, create]
# Draining the journals of pods that are gone.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
