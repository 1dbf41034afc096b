{{/*
What the schema cannot say: sums and comparisons. Each problem is a line that begins with the value's
key; all that there are end the rendering together.
*/}}
{{- define "tailorbird.validate" -}}
{{- $parts := append (include "tailorbird.trainerParts" . | fromYamlArray) (dict "name" "serving" "values" .Values.serving) -}}
{{- $problems := concat
  (include "tailorbird.problems.engine" . | fromYamlArray)
  (include "tailorbird.problems.adapters" . | fromYamlArray)
  (include "tailorbird.problems.openings" . | fromYamlArray)
  (include "tailorbird.problems.names" . | fromYamlArray)
  (include "tailorbird.problems.traffic" . | fromYamlArray)
  (include "tailorbird.problems.scaling" . | fromYamlArray)
  (include "tailorbird.problems.split" . | fromYamlArray)
  (include "tailorbird.problems.sight" . | fromYamlArray)
  (include "tailorbird.problems.console" . | fromYamlArray)
-}}
{{- range $parts -}}
{{- $problems = concat $problems (include "tailorbird.problems.part" (merge (dict "root" $) .) | fromYamlArray) -}}
{{- end -}}
{{- if $problems -}}
{{- fail (printf "\n\nthese values do not fit together:\n- %s\n" (join "\n- " (uniq $problems))) -}}
{{- end -}}
{{- end -}}

{{/* Devices, and the memory and requests of the engine on them. */}}
{{- define "tailorbird.problems.engine" -}}
{{- $problems := list -}}
{{- $config := .Values.serving.config -}}
{{- $gpu := .Values.serving.gpu -}}
{{- $ways := $config.tensorParallelSize | default 1 | int -}}
{{- if and (ne $gpu.driver "none") (ne $ways ($gpu.count | int)) -}}
{{- $problems = append $problems (printf "serving.config.tensorParallelSize: is %d, and serving.gpu.count %d; the engine uses as many devices as the first says, so they must be equal" $ways ($gpu.count | int)) -}}
{{- end -}}
{{- if and (gt $ways 1) (.Values.serving.resources.limits | default dict).memory (ge (include "tailorbird.bytes" .Values.serving.sharedMemory.sizeLimit | int64) (include "tailorbird.bytes" .Values.serving.resources.limits.memory | int64)) -}}
{{- $problems = append $problems (printf "serving.sharedMemory.sizeLimit: is %s, which serving.resources.limits.memory %v must hold beside all else" .Values.serving.sharedMemory.sizeLimit .Values.serving.resources.limits.memory) -}}
{{- end -}}
{{- if and (ne .Values.trainer.gpu.sharing "none") (ne $gpu.sharing "none") -}}
{{- $sum := addf $config.gpuMemoryUtilization .Values.trainer.config.gpuMemoryShare -}}
{{- if gt $sum 0.95 -}}
{{- $problems = append $problems (printf "serving.config.gpuMemoryUtilization: is %v, and trainer.config.gpuMemoryShare %v; on a shared GPU they may be 0.95 together, because each process needs some memory beside" $config.gpuMemoryUtilization .Values.trainer.config.gpuMemoryShare) -}}
{{- end -}}
{{- end -}}
{{- $running := $config.maxRunning | default (ternary 128 256 (eq $gpu.driver "none")) | int64 -}}
{{- if and $config.maxStepTokens (lt (int64 $config.maxStepTokens) $running) -}}
{{- $problems = append $problems (printf "serving.config.maxStepTokens: is %d, less than serving.config.maxRunning %d; a step has a token of each request that runs" (int64 $config.maxStepTokens) $running) -}}
{{- end -}}
{{- toYaml $problems -}}
{{- end -}}

{{/* Ranks, slots, limits and the disk that adapters lie on. */}}
{{- define "tailorbird.problems.adapters" -}}
{{- $problems := list -}}
{{- $config := .Values.serving.config -}}
{{- $trained := .Values.trainer.config.maxLoraRank | default 64 | int -}}
{{- $served := $config.maxLoraRank | default 64 | int -}}
{{- if gt $trained $served -}}
{{- $problems = append $problems (printf "trainer.config.maxLoraRank: is %d, and serving.config.maxLoraRank %d; what is trained must be servable" $trained $served) -}}
{{- end -}}
{{- if and $config.adapterSlots $config.maxCpuLoras (lt (int64 $config.maxCpuLoras) (int64 $config.adapterSlots)) -}}
{{- $problems = append $problems (printf "serving.config.maxCpuLoras: is %v, less than serving.config.adapterSlots %v; what is in a slot is kept in host memory too" (int64 $config.maxCpuLoras) (int64 $config.adapterSlots)) -}}
{{- end -}}
{{- range $what, $default := dict "Running" nil "Waiting" 1024 -}}
{{- $own := get $config (printf "tenantMax%s" $what) -}}
{{- $all := get $config (printf "max%s" $what) | default $default -}}
{{- if and $own $all (gt (int64 $own) (int64 $all)) -}}
{{- $problems = append $problems (printf "serving.config.tenantMax%s: is %v, more than serving.config.max%s %v, which holds for all tenants together" $what (int64 $own) $what (int64 $all)) -}}
{{- end -}}
{{- end -}}
{{- $cached := $config.adapterCacheBytes | default 10737418240 | int64 -}}
{{- $largest := $config.maxAdapterBytes | default 2147483648 | int64 -}}
{{- if lt $cached $largest -}}
{{- $problems = append $problems (printf "serving.config.adapterCacheBytes: is %d, with no room for one adapter of serving.config.maxAdapterBytes %d" $cached $largest) -}}
{{- end -}}
{{- if lt (include "tailorbird.bytes" .Values.serving.cache.size | int64) (add $cached 1073741824) -}}
{{- $problems = append $problems (printf "serving.cache.size: is %s, and must hold serving.config.adapterCacheBytes %d and 1 GiB beside: %d bytes" .Values.serving.cache.size $cached (add $cached 1073741824)) -}}
{{- end -}}
{{- toYaml $problems -}}
{{- end -}}

{{/* Peers that the services cannot do without, where everything that is not named is denied. */}}
{{- define "tailorbird.problems.openings" -}}
{{- $needed := dict -}}
{{- if not (include "tailorbird.fileStore" .) -}}
{{- $_ := set $needed "objectStore" (printf "objectStore.url %s" .Values.objectStore.url) -}}
{{- end -}}
{{- if .Values.trainer.database.existingSecret -}}
{{- $_ := set $needed "database" (printf "trainer.database.existingSecret %s" .Values.trainer.database.existingSecret) -}}
{{- end -}}
{{- with .Values.trainer.ray.address -}}
{{- $_ := set $needed "ray" (printf "trainer.ray.address %s" .) -}}
{{- end -}}
{{- with .Values.baseModel.huggingFace -}}
{{- if and .id (not .offline) -}}
{{- $_ := set $needed "hub" (printf "baseModel.huggingFace.id %s" .id) -}}
{{- end -}}
{{- end -}}
{{- $problems := list -}}
{{- if .Values.networkPolicy.enabled -}}
{{- range $name, $why := $needed -}}
{{- if not (get $.Values.networkPolicy.egress $name).to -}}
{{- $problems = append $problems (printf "networkPolicy.egress.%s.to: names no peer, which %s cannot be reached without; name it, or anywhere: [{ipBlock: {cidr: 0.0.0.0/0}}]" $name $why) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled .Values.sight.podMonitor.enabled (not .Values.networkPolicy.ingress.metrics) -}}
{{- $problems = append $problems "networkPolicy.ingress.metrics: names no peer, and sight.podMonitor.enabled has Prometheus scrape the pods; name it: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]" -}}
{{- end -}}
{{- toYaml $problems -}}
{{- end -}}

{{/* Names that objects and variables cannot have. */}}
{{- define "tailorbird.problems.names" -}}
{{- $problems := list -}}
{{- $name := include "tailorbird.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- $problems = append $problems (printf "fullnameOverride: is empty, and names would begin with %s; a Service's has letters, digits and hyphens and begins with a letter: give one, or another release name" $name) -}}
{{- end -}}
{{- $accounts := list -}}
{{- range $part := list "trainer" "serving" -}}
{{- $values := get $.Values $part -}}
{{- if $values.serviceAccount.create -}}
{{- $accounts = append $accounts (include "tailorbird.serviceAccountName" (dict "root" $ "name" $part "values" $values)) -}}
{{- end -}}
{{- end -}}
{{- if ne (len $accounts) (len (uniq $accounts)) -}}
{{- $problems = append $problems (printf "serving.serviceAccount.create: makes %s, which trainer.serviceAccount makes already; set it to false to share one" (first $accounts)) -}}
{{- end -}}
{{- range $variable, $_ := .Values.objectStore.env -}}
{{- if hasPrefix "TAILORBIRD_" $variable -}}
{{- $problems = append $problems (printf "objectStore.env.%s: is a setting of the services; it has a key of its own" $variable) -}}
{{- else if regexMatch "SECRET|PASSWORD|_SAS|(ACCOUNT|STORAGE|SHARED)_KEY|TOKEN$" $variable -}}
{{- $problems = append $problems (printf "objectStore.env.%s: is a credential; put it into a Secret and name that in objectStore.existingSecret" $variable) -}}
{{- end -}}
{{- end -}}
{{- toYaml $problems -}}
{{- end -}}

{{/* One service's pod. */}}
{{- define "tailorbird.problems.part" -}}
{{- $problems := list -}}
{{- $name := include "tailorbird.serviceOf" . -}}
{{- $shutdown := include "tailorbird.keyOf" (dict "part" . "key" "shutdown") -}}
{{- $resources := include "tailorbird.keyOf" (dict "part" . "key" "resources") -}}
{{- $strategy := include "tailorbird.keyOf" (dict "part" . "key" "strategy") -}}
{{- with .values -}}
{{- $needed := include "tailorbird.shutdownSeconds" $ | int -}}
{{- $given := .shutdown.terminationGracePeriodSeconds | default $needed | int -}}
{{- if lt $given $needed -}}
{{- $problems = append $problems (printf "%s.terminationGracePeriodSeconds: is %d, and must be at least %d: preStopSeconds, drainDelaySeconds, graceSeconds and marginSeconds together" $shutdown $given $needed) -}}
{{- end -}}
{{- if eq (int .ports.grpc) (int .ports.http) -}}
{{- $problems = append $problems (printf "%s.ports.grpc: and %s.ports.http are both %d; each needs its own" $name $name (int .ports.grpc)) -}}
{{- end -}}
{{- $ports := .ports -}}
{{- range $other := list "grpc" "http" -}}
{{- if and $ports.openai (eq (int $ports.openai) (int (get $ports $other))) -}}
{{- $problems = append $problems (printf "%s.ports.openai: and %s.ports.%s are both %d; each needs its own" $name $name $other (int $ports.openai)) -}}
{{- end -}}
{{- end -}}
{{- range $kind := list "requests" "limits" -}}
{{- if hasKey (get $.values.resources $kind | default dict) $.values.gpu.resourceName -}}
{{- $problems = append $problems (printf "%s.%s: has %s; devices are set by %s.gpu.count" $resources $kind $.values.gpu.resourceName $name) -}}
{{- end -}}
{{- end -}}
{{- $asked := include "tailorbird.ownResources" $ | fromYaml -}}
{{- range $resource, $limit := $asked.limits -}}
{{- $request := get $asked.requests $resource -}}
{{- if and $request (gt (include "tailorbird.thousandths" $request | int64) (include "tailorbird.thousandths" $limit | int64)) -}}
{{- $whence := ternary "" ": what the folders on the node's disk may take together" (hasKey ($.values.resources.requests | default dict) $resource) -}}
{{- $problems = append $problems (printf "%s.limits.%s: is %v, less than the request %v%s" $resources $resource $limit $request $whence) -}}
{{- end -}}
{{- end -}}
{{- range .extraVolumes -}}
{{- if has .name (list "data" "temporary" "tokens" "tls" "base-model" "hub-cache" "store" "shared-memory") -}}
{{- $problems = append $problems (printf "%s.extraVolumes: has one named %s, as the chart's own is; give it another name" $name .name) -}}
{{- end -}}
{{- end -}}
{{- if and .queue.priorityClass (not .queue.name) -}}
{{- $problems = append $problems (printf "%s.queue.priorityClass: is %s, and %s.queue.name empty; only what is queued has a priority there" $name .queue.priorityClass $name) -}}
{{- end -}}
{{- if .strategy -}}
{{- if not (or (trimSuffix "%" (toString .strategy.maxSurge) | int) (trimSuffix "%" (toString .strategy.maxUnavailable) | int)) -}}
{{- $problems = append $problems (printf "%s.maxSurge: and %s.maxUnavailable are both 0; a roll-out could never begin" $strategy $strategy) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $problems -}}
{{- end -}}

{{/* A quantity in bytes: 12Gi, 1.5G, 1024. */}}
{{- define "tailorbird.bytes" -}}
{{- div (include "tailorbird.thousandths" . | int64) 1000 -}}
{{- end -}}

{{/* A quantity in thousandths, the smallest there are: 500m, 2, 12Gi. */}}
{{- define "tailorbird.thousandths" -}}
{{- if kindIs "float64" . -}}
{{- mulf . 1000 | floor | int64 -}}
{{- else -}}
{{- $text := toString . -}}
{{- $units := dict "m" 0.001 "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "P" 1000000000000000
  "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 -}}
{{- mulf (regexFind "^[0-9.]+" $text | float64) (get $units (regexFind "[A-Za-z]*$" $text)) 1000 | floor | int64 -}}
{{- end -}}
{{- end -}}
