{{- /* Labels of an object of the component: (list $ "ambit-control"). */ -}}
{{- define "ambit.labelsOf" -}}
{{- $root := index . 0 -}}
{{- $own := dict
  "app.kubernetes.io/name" (index . 1)
  "app.kubernetes.io/instance" $root.Release.Name
  "app.kubernetes.io/part-of" "ambit"
  "app.kubernetes.io/version" $root.Chart.AppVersion
  "app.kubernetes.io/managed-by" $root.Release.Service
  "helm.sh/chart" (printf "%s-%s" $root.Chart.Name ($root.Chart.Version | replace "+" "_"))
-}}
{{- toYaml (merge $own $root.Values.commonLabels) -}}
{{- end }}

{{- define "ambit.labels" -}}
{{ include "ambit.labelsOf" (list . "ambit-operator") }}
{{- end }}

{{- /* The pods of the component; none of another. */ -}}
{{- define "ambit.selectorOf" -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
{{- end }}

{{- /* The image of a part, whole: (list $ "agent"). */ -}}
{{- define "ambit.imageOf" -}}
{{- $root := index . 0 -}}
{{- $part := index . 1 -}}
{{- $own := index $root.Values.images $part -}}
{{- $repository := $own.repository | default (printf "%s/%s" $root.Values.image.registry $part) -}}
{{- $tag := $own.tag | default $root.Values.image.tag | default $root.Chart.AppVersion -}}
{{- if $own.digest -}}
{{ $repository }}@{{ $own.digest }}
{{- else -}}
{{ $repository }}:{{ $tag }}
{{- end }}
{{- end }}

{{- /* Names of the Secrets for pulling images, as a JSON list. */ -}}
{{- define "ambit.pullSecretNames" -}}
{{- $names := list }}
{{- range concat .Values.image.pullSecrets .Values.global.imagePullSecrets }}
{{- $names = append $names .name }}
{{- end }}
{{- $names | uniq | toJson }}
{{- end }}

{{- define "ambit.imagePullSecrets" -}}
{{- with include "ambit.pullSecretNames" . | fromJsonArray }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "ambit.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "ambit.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- /* Of `control` or `operator`, from the values. */ -}}
{{- define "ambit.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /*
The pod of a hook, which runs the operator's program once:
(dict "root" $ "name" "ambit-uninstall" "command" "uninstall" "seconds" 280 "env" list).
*/ -}}
{{- define "ambit.hookPod" -}}
{{- $root := .root -}}
metadata:
  labels:
    {{- include "ambit.labelsOf" (list $root .name) | nindent 4 }}
    istio.io/dataplane-mode: none
spec:
  serviceAccountName: {{ .name }}
  priorityClassName: {{ $root.Values.operator.priorityClassName | quote }}
  restartPolicy: Never
  {{- include "ambit.placement" $root.Values.operator | nindent 2 }}
  {{- include "ambit.imagePullSecrets" $root | nindent 2 }}
  securityContext:
    {{- include "ambit.podSecurity" $root | nindent 4 }}
  containers:
    - name: {{ .command }}
      image: {{ include "ambit.imageOf" (list $root "operator") }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: [{{ .command }}]
      terminationMessagePolicy: FallbackToLogsOnError
      env:
        - name: POD_NAMESPACE
          valueFrom:
            fieldRef:
              fieldPath: metadata.namespace
        - name: AMBIT_TIMEOUT
          value: {{ .seconds | quote }}
        {{- with .env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      securityContext:
        {{- include "ambit.restricted" $root | nindent 8 }}
      resources:
        requests:
          cpu: 10m
          memory: 16Mi
{{- end }}
