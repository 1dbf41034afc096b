{{/* Objects that both services have, each with its part. */}}

{{- define "tailorbird.configMap" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  {{- include "tailorbird.metadata" (dict "part" . "name" (include "tailorbird.partName" .)) | nindent 2 }}
data:
  {{- include "tailorbird.environment" . | trim | nindent 2 }}
{{- end -}}

{{- define "tailorbird.serviceAccount" -}}
{{- if .values.serviceAccount.create -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "tailorbird.metadata" (dict "part" . "name" (include "tailorbird.serviceAccountName" .) "annotations" .values.serviceAccount.annotations) | nindent 2 }}
automountServiceAccountToken: false
{{- end -}}
{{- end -}}

{{/* `pods` is the component of the pods, where it is not the part's own.
Clients that balance by themselves dial the headless one: its name has every ready pod's address. */}}
{{- define "tailorbird.service" -}}
{{- $name := include "tailorbird.partName" .part -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "tailorbird.metadata" (dict "part" .part "name" (ternary (printf "%s-headless" $name) $name .headless) "annotations" .part.values.service.annotations) | nindent 2 }}
spec:
  type: ClusterIP
  {{- if .headless }}
  clusterIP: None
  publishNotReadyAddresses: false
  {{- end }}
  selector:
    {{- include "tailorbird.selectorLabels" (dict "root" .part.root "name" (.pods | default .part.name)) | nindent 4 }}
  ports:
    - name: grpc
      port: {{ ternary .part.values.ports.grpc .part.values.service.port .headless }}
      targetPort: grpc
      protocol: TCP
      appProtocol: {{ include "tailorbird.appProtocol" .part | quote }}
    {{- with .part.values.ports.openai }}
    - name: openai
      port: {{ . }}
      targetPort: openai
      protocol: TCP
      appProtocol: {{ ternary "https" "http" (ne $.part.root.Values.tls.existingSecret "") }}
    {{- end }}
{{- end -}}

{{/* (dict "part" $part "scaled" BOOL); scaled: somebody else says how many replicas there are. */}}
{{- define "tailorbird.deployment" -}}
{{- $part := .part -}}
{{- $values := $part.values -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "tailorbird.metadata" (dict "part" $part "name" (include "tailorbird.partName" $part) "labels" (include "tailorbird.workloadLabels" $part | fromYaml)) | nindent 2 }}
spec:
  {{- if not .scaled }}
  replicas: {{ $values.replicas }}
  {{- end }}
  revisionHistoryLimit: {{ $values.revisionHistoryLimit }}
  # A pod may take its whole startup budget before the roll-out counts as stuck, and as long again for
  # images, volumes and the init step.
  progressDeadlineSeconds: {{ add (mul 2 $values.probes.startup.budgetSeconds) (include "tailorbird.gracePeriod" $part) }}
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxSurge: {{ $values.strategy.maxSurge }}
      maxUnavailable: {{ $values.strategy.maxUnavailable }}
  selector:
    matchLabels:
      {{- include "tailorbird.selectorLabels" $part | nindent 6 }}
  template:
    metadata:
      {{- include "tailorbird.podMetadata" $part | nindent 6 }}
    spec:
      {{- include "tailorbird.podSpec" $part | nindent 6 }}
{{- end -}}

{{- define "tailorbird.podDisruptionBudget" -}}
{{- if .values.podDisruptionBudget.enabled -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "tailorbird.metadata" (dict "part" . "name" (include "tailorbird.partName" .)) | nindent 2 }}
spec:
  maxUnavailable: {{ .values.podDisruptionBudget.maxUnavailable }}
  # A pod that is not ready serves nobody: it never blocks a drain.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "tailorbird.selectorLabels" . | nindent 6 }}
{{- end -}}
{{- end -}}

{{- define "tailorbird.resourceClaimTemplate" -}}
{{- if eq .values.gpu.driver "dra" -}}
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata:
  {{- include "tailorbird.metadata" (dict "part" . "name" (include "tailorbird.claimTemplateName" .)) | nindent 2 }}
spec:
  metadata:
    labels:
      {{- include "tailorbird.selectorLabels" . | nindent 6 }}
  spec:
    devices:
      requests:
        - name: gpu
          exactly:
            {{- include "tailorbird.deviceRequest" . | nindent 12 }}
{{- end -}}
{{- end -}}

{{- define "tailorbird.deviceRequest" -}}
deviceClassName: {{ .values.gpu.dra.deviceClassName | quote }}
allocationMode: ExactCount
count: {{ .values.gpu.count }}
{{- with .values.gpu.dra.selectors }}
selectors:
  {{- range . }}
  - cel:
      expression: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* A template of claims can never change: other devices take a template of another name. */}}
{{- define "tailorbird.claimTemplateName" -}}
{{- printf "%s-%s" (include "tailorbird.partName" .) (include "tailorbird.deviceRequest" . | sha256sum | trunc 8) -}}
{{- end -}}

{{/* A claim that an uninstall leaves: (dict "part" $part "name" NAME "claim" VALUES) */}}
{{- define "tailorbird.claim" -}}
{{- if not .claim.existingClaim -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  {{- include "tailorbird.metadata" (dict "part" .part "name" .name "annotations" (dict "helm.sh/resource-policy" "keep")) | nindent 2 }}
spec:
  accessModes:
    {{- toYaml .claim.accessModes | nindent 4 }}
  {{- with .claim.storageClassName }}
  storageClassName: {{ . | quote }}
  {{- end }}
  resources:
    requests:
      storage: {{ .claim.size }}
{{- end -}}
{{- end -}}

{{- define "tailorbird.workloadLabels" -}}
{{- with .values.queue.name }}
kueue.x-k8s.io/queue-name: {{ . | quote }}
{{- end }}
{{- with .values.queue.priorityClass }}
kueue.x-k8s.io/priority-class: {{ . | quote }}
{{- end }}
{{- end -}}
